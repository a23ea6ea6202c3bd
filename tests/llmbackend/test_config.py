from collections.abc import Callable
from dataclasses import FrozenInstanceError, is_dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from llmbackend.config import Config, Provider, is_weak_secret, load
from llmbackend.config_reading import ConfigError

Load = Callable[..., Config]
Refuse = Callable[..., str]
ROOT = Path(__file__).parents[2]

SEED = """
server:
  port: "8080"

redis:
  address: "localhost:6379"
  password: ""
  db: 0

sqlite:
  path: "./llm_backend.db"
  max_open_conns: 10
  max_idle_conns: 5
  conn_max_lifetime: 300 # in seconds

jwt:
  secret: "S3cureK3y#2024!AIsafety"
"""
STRONG = "correct-horse-battery-staple-and-more"
SQLITE = "sqlite: {path: a.db}\n"


@pytest.fixture
def loaded(tmp_path: Path) -> Load:
    """Load a text as config.yaml, with the environment given as keywords."""

    def load_text(text: str, **environ: str) -> Config:
        path = tmp_path / "config.yaml"
        path.write_text(text, encoding="utf-8")
        return load(path, environ)

    return load_text


@pytest.fixture
def refusal(loaded: Load) -> Refuse:
    """The message with which a text is refused."""

    def refuse(text: str, **environ: str) -> str:
        with pytest.raises(ConfigError) as caught:
            loaded(text, **environ)
        message = str(caught.value)
        assert message.startswith("config.yaml: ")
        assert "\n" not in message
        return message.removeprefix("config.yaml: ")

    return refuse


def test_the_first_version_s_example_loads_unchanged(
    loaded: Load, tmp_path: Path
) -> None:
    config = loaded(SEED)

    assert config.server.port == 8080
    assert (config.redis.address, config.redis.db) == ("localhost:6379", 0)
    assert config.sqlite.path == tmp_path / "llm_backend.db"
    assert config.sqlite.max_open_conns == 10
    assert config.sqlite.max_idle_conns == 5
    assert config.sqlite.conn_max_lifetime == 300
    assert [provider.name for provider in config.providers] == ["openai", "zhipu"]


def test_the_file_of_the_repository_loads_with_nothing_in_the_environment() -> None:
    config = load(ROOT / "config.yaml", {})

    assert config.redis.address == config.jwt.secret == config.database.url == ""
    assert config.sqlite.path == ROOT / "llm_backend.db"
    assert all(provider.api_key == "" for provider in config.providers)


def test_the_file_of_the_repository_shows_the_defaults(loaded: Load) -> None:
    shown = load(ROOT / "config.yaml", {})
    bare = loaded("sqlite: {path: llm_backend.db}")

    assert replace(shown, sqlite=bare.sqlite) == bare


def test_every_key_is_documented() -> None:
    documented = (ROOT / "docs" / "config.md").read_text(encoding="utf-8")

    missing = [key for key in all_keys(Config) if f"| `{key}` |" not in documented]

    assert not missing


def all_keys(kind: Any, prefix: str = "") -> list[str]:
    """The paths of the keys below `kind`, without the index of a list's item."""
    if not is_dataclass(kind):
        return [prefix]
    keys = []
    for name, hint in get_type_hints(kind).items():
        section = Provider if Provider in get_args(hint) else hint
        keys += all_keys(section, f"{prefix}.{name}" if prefix else name)
    return keys


def test_the_result_is_frozen(loaded: Load) -> None:
    server: Any = loaded(SQLITE).server

    with pytest.raises(FrozenInstanceError):
        server.port = 1


def test_secrets_are_not_in_the_representation(loaded: Load) -> None:
    text = f"""
    jwt: {{secret: {STRONG}}}
    redis: {{password: s-redis}}
    database: {{url: "postgresql://me:s-database@db/llm"}}
    providers: [{{name: a, base_url: "http://a", api_key: s-provider}}]
    """

    shown = repr(loaded(text))

    for secret in (STRONG, "s-redis", "s-database", "s-provider"):
        assert secret not in shown


# Shape.


def test_an_unknown_key_is_named_with_its_path(refusal: Refuse) -> None:
    assert refusal("redsi: {}").startswith("redsi: unknown key, expected server, ")
    assert refusal(SQLITE + "server: {prot: 1}") == (
        "server.prot: unknown key, expected port, host, workers, allowed_hosts, "
        "cors_origins, trusted_proxies, shutdown_grace"
    )
    assert refusal("providers: [{name: a, base_url: http://a, url: 1}]").startswith(
        "providers[0].url: unknown key"
    )


def test_an_unknown_key_that_may_hold_a_secret_is_not_shown(refusal: Refuse) -> None:
    assert refusal("redis: {password:hunter2}") == (
        "redis: unknown key, expected address, password, db"
    )


def test_a_missing_key_is_named_with_its_path(refusal: Refuse) -> None:
    assert refusal(SQLITE + "providers: [{name: a}]") == (
        "providers[0].base_url: expected, but missing"
    )
    assert refusal("server: {}") == "sqlite.path: expected, but missing"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a mapping, got nothing"),
        ("- a", "expected a mapping, got a list"),
        ("server: 1", "server: expected a mapping, got a whole number"),
        ("server:", "server: expected a mapping, got nothing"),
        ("providers: {}", "providers: expected a list, got a mapping"),
        ("providers: [a]", "providers[0]: expected a mapping, got other text"),
        (
            "redis: {password: 12345}",
            "redis.password: expected text (in quotes), got a whole number",
        ),
        (
            "redis: {db: true}",
            "redis.db: expected a whole number from 0 to 2147483647, got true or false",
        ),
        (
            "local: {enabled: 1}",
            "local.enabled: expected true or false, got a whole number",
        ),
        (
            "chat: {total_timeout: true}",
            "chat.total_timeout: expected a number above 0 to 86400, got true or false",
        ),
        (
            "chat: {context_windows: {gpt-4*: a}}",
            "chat.context_windows.'gpt-4*': expected a whole number from 1 to "
            "2147483647, got other text",
        ),
    ],
)
def test_a_wrong_type_is_named_with_what_was_expected(
    refusal: Refuse, text: str, message: str
) -> None:
    assert refusal(text) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "line 1, column 5: expected valid YAML"),
        ("jwt: {secret: *hunter2}", "line 1, column 15: expected valid YAML"),
        ("a: 1\n---\nb: 2", "line 2, column 1: expected valid YAML"),
        ("a: 2024-13-45", "expected valid YAML"),
        ("a: !!bool perhaps", "expected valid YAML"),
        ("a: !!timestamp today", "expected valid YAML"),
        ("a: &a [*a]", "expected valid YAML"),
        ("a: !!python/name:os.system", "line 1, column 4: expected valid YAML"),
        ("? [a]\n: 1", "line 1, column 3: expected valid YAML"),
        ("jwt: {}\njwt: {}", "jwt: expected once, given twice"),
        (
            "providers: [{name: a, name: b}]",
            "providers[0].name: expected once, given twice",
        ),
    ],
)
def test_what_is_not_plain_yaml_is_refused(
    refusal: Refuse, text: str, message: str
) -> None:
    assert refusal(text) == message


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "absent.yaml", {})

    assert str(caught.value) == (
        f"absent.yaml: cannot read {tmp_path}/absent.yaml: No such file or directory"
    )


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(b"\xff\xfe\x00")

    with pytest.raises(ConfigError, match="expected text in UTF-8"):
        load(path, {})


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + SQLITE.encode())

    assert load(path, {}).sqlite.path == tmp_path / "a.db"


# References to the environment.


@pytest.mark.parametrize(
    ("written", "environ", "read"),
    [
        ("${SECRET}", {"SECRET": "a"}, "a"),
        ("${SECRET}", {"SECRET": ""}, ""),
        ("x${SECRET}y${SECRET}", {"SECRET": "a"}, "xaya"),
        ("${SECRET:-b}", {}, "b"),
        ("${SECRET:-b}", {"SECRET": ""}, "b"),
        ("${SECRET:-b}", {"SECRET": "a"}, "a"),
        ("${SECRET:-}", {}, ""),
        ("$${SECRET}", {"SECRET": "a"}, "${SECRET}"),
        ("$SECRET $$ {SECRET}", {"SECRET": "a"}, "$SECRET $$ {SECRET}"),
        ("${SECRET}", {"SECRET": "${OTHER}"}, "${OTHER}"),
    ],
)
def test_a_reference_is_filled_in(
    loaded: Load, written: str, environ: dict[str, str], read: Any
) -> None:
    config = loaded(SQLITE + f'jwt: {{secret: "{written}"}}', **environ)

    assert config.jwt.secret == read


def test_a_reference_to_an_unset_variable_is_named(refusal: Refuse) -> None:
    assert refusal('redis: {password: "${REDIS_PASSWORD}"}') == (
        "redis.password: expected the environment variable REDIS_PASSWORD, "
        "which is not set"
    )


@pytest.mark.parametrize("written", ["${", "${1A}", "${A", "${A-b}", "${}"])
def test_a_broken_reference_is_refused(refusal: Refuse, written: str) -> None:
    text = f"redis: {{password: '{written}'}}"

    assert refusal(text, A="a").startswith("redis.password: expected ${NAME} or ")


def test_a_reference_may_stand_for_a_number_or_a_truth_value(
    loaded: Load, refusal: Refuse
) -> None:
    text = SQLITE + 'server: {workers: "${N}"}\nlocal: {enabled: "${L}"}'

    config = loaded(text, N="4", L="false")

    assert (config.server.workers, config.local.enabled) == (4, False)
    assert "server.workers: expected a whole number" in refusal(text, N="a", L="true")


def test_a_number_that_stands_for_text_stays_text(loaded: Load) -> None:
    config = loaded(SQLITE + 'redis: {password: "${P}"}', P="0123")

    assert config.redis.password == "0123"


def test_a_quoted_number_without_a_reference_is_a_wrong_type(refusal: Refuse) -> None:
    assert refusal('server: {workers: "4"}').startswith("server.workers: expected")


# Providers.


def test_without_providers_the_default_ones_read_their_keys_from_the_environment(
    loaded: Load,
) -> None:
    openai, zhipu = loaded(SQLITE, OPENAI_API_KEY="sk-1", ZHIPU_API_KEY="z-1").providers

    assert openai == Provider(
        name="openai",
        base_url="https://api.openai.com/v1",
        api_key="sk-1",
        chat_models=("gpt*", "o1*", "o3*", "o4*", "chatgpt*"),
        embedding_models={
            "openai-3-small": "text-embedding-3-small",
            "openai-3-large": "text-embedding-3-large",
        },
    )
    assert (zhipu.api_key, zhipu.chat_models) == ("z-1", ("glm*",))


def test_an_empty_list_of_providers_means_none(loaded: Load) -> None:
    assert loaded(SQLITE + "providers: []").providers == ()


@pytest.mark.parametrize("name", ["embed-3", "local-e5", "local-ngram", "auto"])
def test_an_embedding_model_s_name_is_its_own(refusal: Refuse, name: str) -> None:
    text = f"""
    sqlite: {{path: a.db}}
    providers:
      - {{name: first, base_url: "http://a", embedding_models: {{embed-3: a}}}}
      - {{name: second, base_url: "http://b", embedding_models: {{{name}: b}}}}
    """

    assert refusal(text) == (
        f"providers[1].embedding_models: expected names of their own, {name} is taken"
    )


@pytest.mark.parametrize("name", ["local", "Local", "first", "FIRST"])
def test_a_provider_s_name_is_its_own(refusal: Refuse, name: str) -> None:
    text = f"""
    sqlite: {{path: a.db}}
    providers:
      - {{name: first, base_url: "http://a"}}
      - {{name: {name}, base_url: "http://b"}}
    """

    assert refusal(text) == (
        f"providers[1].name: expected a name of its own, {name} is taken"
    )


# Secrets.


@pytest.mark.parametrize(
    ("secret", "weak"),
    [
        ("", True),
        ("S3cureK3y#2024!AIsafety", True),
        ("a" * 31, True),
        ("a" * 32, False),
        ("密" * 11, False),
    ],
)
def test_a_secret_below_32_bytes_is_weak(secret: str, weak: bool) -> None:
    assert is_weak_secret(secret) is weak


def test_a_weak_secret_is_no_error_beside_sqlite(loaded: Load) -> None:
    assert loaded(SQLITE + "jwt: {secret: hunter2}").jwt.secret == "hunter2"


@pytest.mark.parametrize(
    ("secret", "why"),
    [
        ("", "is empty"),
        ("S3cureK3y#2024!AIsafety", "is the published example"),
        ("hunter2", "is shorter than 32 bytes"),
    ],
)
def test_a_shared_database_needs_a_strong_secret(
    refusal: Refuse, secret: str, why: str
) -> None:
    text = f'database: {{url: "postgres://db/llm"}}\njwt: {{secret: "{secret}"}}'

    assert refusal(text) == (
        f"jwt.secret: expected 32 bytes or more beside database.url; this one {why}"
    )


def test_a_shared_database_needs_no_sqlite_path(loaded: Load) -> None:
    text = 'database: {url: "postgresql:///llm?host=/run/postgresql"}\n'

    config = loaded(text + f"jwt: {{secret: {STRONG}}}\nsqlite: {{max_open_conns: 20}}")

    assert config.database.url.startswith("postgresql:///llm")
    assert config.sqlite.max_open_conns == 20
