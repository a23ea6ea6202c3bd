"""config.yaml, read once into frozen dataclasses; pure."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml

from llmbackend.config_reading import ConfigError, build, parse
from llmbackend.config_values import (
    Address,
    ApiKey,
    AutoTitle,
    BaseUrl,
    BcryptCost,
    Count,
    CountOrZero,
    FilePath,
    Framing,
    Grace,
    Host,
    HostPattern,
    Hours,
    Ip,
    LogFormat,
    MetricsToken,
    Name,
    OnDisconnect,
    Origin,
    Pattern,
    Port,
    PostgresUrl,
    Registration,
    Seconds,
    is_wildcard,
)


@dataclass(frozen=True, kw_only=True)
class Server:
    """Where to listen, and who may call; `Config.allowed_hosts` fills in the hosts."""

    port: Port = 8080
    host: Host = "127.0.0.1"
    workers: Count = 1
    allowed_hosts: tuple[HostPattern, ...] = ()
    cors_origins: tuple[Origin, ...] = ("*",)
    trusted_proxies: tuple[Ip, ...] = ()
    shutdown_grace: Grace = 20.0


@dataclass(frozen=True, kw_only=True)
class Redis:
    """The optional cache; an empty address means none."""

    address: Address = ""
    password: str = field(default="", repr=False)
    db: CountOrZero = 0


@dataclass(frozen=True, kw_only=True)
class Sqlite:
    """The database file, and how many threads may hold a connection to it."""

    path: FilePath = Path()
    max_open_conns: Count = 10
    max_idle_conns: CountOrZero = 5
    conn_max_lifetime: CountOrZero = 300


@dataclass(frozen=True, kw_only=True)
class Database:
    """A PostgreSQL URL; when given, it is used in place of SQLite."""

    url: PostgresUrl = field(default="", repr=False)


@dataclass(frozen=True, kw_only=True)
class Jwt:
    """How tokens are signed; `llmbackend.keys` replaces a weak or empty secret."""

    secret: str = field(default="", repr=False)
    lifetime_hours: Hours = 24.0


@dataclass(frozen=True, kw_only=True)
class Accounts:
    """Who may register, how passwords are kept, how often they may be tried."""

    registration: Registration = "open"
    bcrypt_cost: BcryptCost = 12
    failed_logins_per_account: CountOrZero = 10
    failed_logins_per_address: CountOrZero = 100
    registrations_per_address: CountOrZero = 60


@dataclass(frozen=True, kw_only=True)
class Provider:
    """One OpenAI-compatible endpoint and the model names it serves."""

    name: Name
    base_url: BaseUrl
    api_key: ApiKey = field(default="", repr=False)
    chat_models: tuple[Pattern, ...] = ()
    embedding_models: dict[Pattern, Pattern] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Local:
    """The embedded models; an empty path means the model that came with the wheel."""

    enabled: bool = True
    chat_model_path: str = ""
    preload: bool = False


@dataclass(frozen=True, kw_only=True)
class Rag:
    """How knowledge bases are embedded and searched."""

    default_embedding_model: str = "auto"
    max_upload_mb: Count = 50
    index_memory_mb: Count = 1024


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What each user may use, unless their account says otherwise; 0 is no limit."""

    messages_per_minute: CountOrZero = 0
    concurrent_answers: CountOrZero = 0
    tokens_per_day: CountOrZero = 0
    tokens_per_month: CountOrZero = 0
    documents: CountOrZero = 1000
    document_mb: CountOrZero = 1024

    @property
    def on_tokens(self) -> bool:
        """Whether it is limited what answers may cost."""
        return bool(self.tokens_per_day or self.tokens_per_month)


@dataclass(frozen=True, kw_only=True)
class Chat:
    """What a model is sent (windows in tokens), and how long it may take (seconds)."""

    system_prompt: str = "你是一个乐于回答各种问题的小助手"
    framing: Framing = "auto"
    on_disconnect: OnDisconnect = "continue"
    auto_title: AutoTitle = "question"
    connect_timeout: Seconds = 10.0
    first_token_timeout: Seconds = 60.0
    silence_timeout: Seconds = 60.0
    total_timeout: Seconds = 900.0
    context_window: Count = 16000
    context_windows: dict[Pattern, Count] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Admin:
    """What administrators are shown."""

    show_contents: bool = False


@dataclass(frozen=True, kw_only=True)
class Log:
    """What a line of the log looks like."""

    format: LogFormat = "line"


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """What opens /metrics; without a token there is none, and nothing is counted."""

    token: MetricsToken = field(default="", repr=False)


@dataclass(frozen=True, kw_only=True)
class Config:
    """The whole of config.yaml."""

    server: Server = field(default_factory=Server)
    redis: Redis = field(default_factory=Redis)
    sqlite: Sqlite = field(default_factory=Sqlite)
    database: Database = field(default_factory=Database)
    jwt: Jwt = field(default_factory=Jwt)
    accounts: Accounts = field(default_factory=Accounts)
    providers: tuple[Provider, ...] = ()
    local: Local = field(default_factory=Local)
    limits: Limits = field(default_factory=Limits)
    rag: Rag = field(default_factory=Rag)
    chat: Chat = field(default_factory=Chat)
    admin: Admin = field(default_factory=Admin)
    log: Log = field(default_factory=Log)
    metrics: Metrics = field(default_factory=Metrics)

    @property
    def allowed_hosts(self) -> tuple[str, ...]:
        """The host names to answer for, IPv6 in brackets; `("*",)` means any."""
        host = self.server.host
        if self.server.allowed_hosts:
            return self.server.allowed_hosts
        if is_wildcard(host):
            return ("*",)
        named = f"[{host}]" if ":" in host else host
        return tuple(dict.fromkeys(("localhost", "127.0.0.1", "[::1]", named)))


def load(path: Path, environ: Mapping[str, str] | None = None) -> Config:
    """
    Read `path`; raise ConfigError naming the first key that is wrong.

    `environ` (default: the process's) fills in `${NAME}`. Paths in the result are
    absolute; relative ones started at the folder of `path`.
    """
    environ = os.environ if environ is None else environ
    try:
        raw = parse(path)
        if isinstance(raw, dict):
            raw = {"providers": yaml.safe_load(_DEFAULT_PROVIDERS), **raw}
        config = build(Config, raw, where="", environ=environ)
        return _checked(_located(config, folder=path.absolute().parent))
    except ConfigError as error:
        raise ConfigError(f"{path.name}: {error}") from error.__cause__


def is_weak_secret(secret: str) -> bool:
    """Whether `secret` must never sign a token."""
    return bool(weakness(secret))


def weakness(secret: str) -> str:
    """
    What is wrong with `secret` as a signing key, as a predicate; empty if nothing.

    >>> weakness("hunter2")
    'is shorter than 32 bytes'
    """
    if not secret:
        return "is empty"
    if secret == _PUBLISHED:
        return "is the published example"
    return "is shorter than 32 bytes" if len(secret.encode()) < 32 else ""


_PUBLISHED = "S3cureK3y#2024!AIsafety"

_DEFAULT_PROVIDERS = """
- name: openai
  base_url: "https://api.openai.com/v1"
  api_key: "${OPENAI_API_KEY:-}"
  chat_models: ["gpt*", "o1*", "o3*", "o4*", "chatgpt*"]
  embedding_models:
    openai-3-small: text-embedding-3-small
    openai-3-large: text-embedding-3-large
- name: zhipu
  base_url: "https://open.bigmodel.cn/api/paas/v4"
  api_key: "${ZHIPU_API_KEY:-}"
  chat_models: ["glm*"]
  embedding_models:
    zhipu-embedding-3: embedding-3
    zhipu-embedding-2: embedding-2
"""


def _located(config: Config, *, folder: Path) -> Config:
    sqlite, local = config.sqlite, config.local
    if sqlite.path == Path() and not config.database.url:
        raise ConfigError("sqlite.path: expected, but missing")
    database = sqlite.path if sqlite.path != Path() else Path("llm_backend.db")
    model = str(folder / local.chat_model_path) if local.chat_model_path else ""
    return replace(
        config,
        sqlite=replace(sqlite, path=folder / database),
        local=replace(local, chat_model_path=model),
    )


def _checked(config: Config) -> Config:
    """Refuse what only shows when keys are read side by side."""
    taken = {"local"}
    for index, provider in enumerate(config.providers):
        if provider.name.casefold() in taken:
            problem = f"a name of its own, {provider.name} is taken"
            raise ConfigError(f"providers[{index}].name: expected {problem}")
        taken.add(provider.name.casefold())
    # A base is searched by the model of the name it was embedded by.
    embedders = ["auto", "local-e5", "local-ngram"]
    for index, provider in enumerate(config.providers):
        for name in provider.embedding_models:
            if name in embedders:
                problem = f"names of their own, {name} is taken"
                raise ConfigError(
                    f"providers[{index}].embedding_models: expected {problem}"
                )
            embedders.append(name)
    if config.rag.default_embedding_model not in embedders:
        one_of = ", ".join(embedders)
        raise ConfigError(f"rag.default_embedding_model: expected one of {one_of}")
    weak = weakness(config.jwt.secret)
    if config.database.url and weak:
        problem = "32 bytes or more beside database.url; this one"
        raise ConfigError(f"jwt.secret: expected {problem} {weak}")
    return config
