"""Django's settings, spelled out of config.yaml; read them through django.conf."""

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import dj_database_url

from llmbackend.handover import read_or_taken

BASE_DIR = Path(__file__).resolve().parent.parent
CONFIG, KEYS = read_or_taken(
    Path(os.environ.get("LLMBACKEND_CONFIG") or BASE_DIR / "config.yaml")
)

SECRET_KEY = KEYS.django
DEBUG = False
ALLOWED_HOSTS = list(CONFIG.allowed_hosts)

INSTALLED_APPS = [
    # Before staticfiles: its `runserver` is the one that counts. The daphne app would
    # do the same, but costs every process 30 MB and half a second of Twisted.
    "llmbackend",
    "llmbackend.console.apps.AdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "channels",
    "rest_framework",
    # Swagger UI and Redoc as static files; there is no code in it.
    "drf_spectacular_sidecar",
    "accounts",
    "conversations",
    "rag",
    "chat",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "llmbackend.urls"
APPEND_SLASH = False
ASGI_APPLICATION = "llmbackend.asgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

SQLITE = {
    "ENGINE": "llmbackend.sqlite",
    "NAME": CONFIG.sqlite.path,
    "OPTIONS": {
        "timeout": 20,
        # A read that becomes a write fails at once under the default mode, whatever
        # the time-out; a write that begins as one waits its turn.
        "transaction_mode": "IMMEDIATE",
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;",
    },
    "TEST": {"NAME": CONFIG.sqlite.path.with_name("test_llm_backend.db")},
}
POSTGRESQL = dj_database_url.parse(CONFIG.database.url) if CONFIG.database.url else {}
DATABASES: dict[str, Any] = {
    "default": {
        **(POSTGRESQL or SQLITE),
        "CONN_MAX_AGE": CONFIG.sqlite.conn_max_lifetime or None,
        # One restart of PostgreSQL must not cost each thread a failed request.
        "CONN_HEALTH_CHECKS": True,
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

if CONFIG.redis.address:
    CACHES = {
        "default": {
            "BACKEND": "django_redis.cache.RedisCache",
            "LOCATION": f"redis://{CONFIG.redis.address}/{CONFIG.redis.db}",
            "KEY_PREFIX": "llmbackend",
            "OPTIONS": {
                "PASSWORD": CONFIG.redis.password,
                "SERIALIZER": "llmbackend.cache.Serializer",
                "SOCKET_CONNECT_TIMEOUT": 1,
                "SOCKET_TIMEOUT": 1,
            },
        }
    }

# The admin asks before a deletion with a form that has a field for each row.
DATA_UPLOAD_MAX_NUMBER_FIELDS = 5_100
FILE_UPLOAD_HANDLERS = [
    "django.core.files.uploadhandler.MemoryFileUploadHandler",
    "llmbackend.uploads.NamelessFileUploadHandler",
]

AUTH_USER_MODEL = "accounts.User"
PASSWORD_HASHERS = ["accounts.hashers.PasswordHasher"]
AUTH_PASSWORD_VALIDATORS = [
    {
        "NAME": "django.contrib.auth.password_validation.MinimumLengthValidator",
        "OPTIONS": {"min_length": 8},
    },
    {"NAME": "accounts.passwords.MaximumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["accounts.authentication.BearerAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["accounts.permissions.InScope"],
    "DEFAULT_RENDERER_CLASSES": ["llmbackend.http.JSONRenderer"],
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "llmbackend.http.JSONNegotiation",
    "DEFAULT_PARSER_CLASSES": ["llmbackend.http.JSONParser"],
    # ?format= is ours: of an export, and of a stream.
    "URL_FORMAT_OVERRIDE": None,
    "EXCEPTION_HANDLER": "llmbackend.http.exception_handler",
    "DEFAULT_METADATA_CLASS": None,
    "UNAUTHENTICATED_USER": None,
}
SIMPLE_JWT = {
    "ALGORITHM": "HS256",
    "SIGNING_KEY": KEYS.jwt,
    "ACCESS_TOKEN_LIFETIME": timedelta(hours=CONFIG.jwt.lifetime_hours),
    "REFRESH_TOKEN_LIFETIME": timedelta(days=30),
    # One machine's clock is behind another's, or was set back. That is for the time of
    # issue: what has expired, accounts.tokens refuses to the second.
    "LEEWAY": timedelta(minutes=5),
}

LANGUAGE_CODE = "en"
LOCALE_PATHS = [BASE_DIR / "locale"]
LANGUAGES = [("en", "English"), ("zh-hans", "简体中文")]
TIME_ZONE = "UTC"
USE_TZ = True
STATIC_URL = "static/"
WHITENOISE_USE_FINDERS = True
WHITENOISE_AUTOREFRESH = False

# TLS ends at a proxy: where one is named, the admin is for HTTPS alone. The guard
# drops X-Forwarded-* from anyone else.
BEHIND_TLS = bool(CONFIG.server.trusted_proxies)
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if BEHIND_TLS else None
SECURE_SSL_REDIRECT = BEHIND_TLS
SECURE_HSTS_SECONDS = 30 * 24 * 3600 if BEHIND_TLS else 0
# Whether all subdomains are for HTTPS alone is for the domain's owner to promise.
SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W021"]
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
CSRF_COOKIE_HTTPONLY = True
CSRF_COOKIE_SECURE = SESSION_COOKIE_SECURE = BEHIND_TLS

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {"request_id": {"()": "llmbackend.log.RequestIdFilter"}},
    "formatters": {
        "line": {
            "format": "{asctime} {levelname} {name} [{request_id}] {message}",
            "style": "{",
        },
        "json": {"()": "llmbackend.log.JsonFormatter"},
    },
    "handlers": {
        "console": {
            "class": "logging.StreamHandler",
            "formatter": CONFIG.log.format,
            "filters": ["request_id"],
        }
    },
    "root": {"handlers": ["console"], "level": "INFO"},
    "loggers": {
        "django": {"handlers": [], "level": "INFO", "propagate": True},
        "django.server": {"handlers": [], "level": "WARNING", "propagate": True},
        # Errors are answered and logged by the code that maps them.
        "django.request": {"level": "CRITICAL"},
        "django.security.DisallowedHost": {"level": "CRITICAL"},
        "httpx2": {"level": "WARNING"},
        "openai": {"level": "WARNING"},
        "uvicorn.access": {"level": "WARNING"},
        "uvicorn.error": {"level": "ERROR"},
        "daphne": {"level": "WARNING"},
    },
}
