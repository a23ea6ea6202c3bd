from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmbackend.config import Config, load
from llmbackend.config_reading import ConfigError

Load = Callable[..., Config]
Refuse = Callable[[str], str]
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

    def refuse(text: str) -> str:
        with pytest.raises(ConfigError) as caught:
            loaded(text)
        return str(caught.value).removeprefix("config.yaml: ")

    return refuse


@pytest.mark.parametrize("port", ['"8080"', '":8080"', "8080", '"${P}"', '":${P}"'])
def test_a_port_is_read_in_all_its_spellings(loaded: Load, port: str) -> None:
    assert loaded(SQLITE + f"server: {{port: {port}}}", P="8080").server.port == 8080


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("server", "port", "0"),
        ("server", "port", "65536"),
        ("server", "port", "http"),
        ("server", "port", '"::80"'),
        ("server", "port", "true"),
        ("server", "host", '"localhost:80"'),
        ("server", "host", '"http://localhost"'),
        ("server", "workers", "0"),
        ("server", "allowed_hosts", "[example.com:80]"),
        ("server", "allowed_hosts", "['https://example.com']"),
        ("server", "allowed_hosts", "example.com"),
        ("server", "cors_origins", "[app.example.com]"),
        ("server", "cors_origins", "['https://app.example.com/']"),
        ("server", "cors_origins", "https://app.example.com"),
        ("server", "trusted_proxies", "[10.0.0.0/8]"),
        ("server", "trusted_proxies", '"*"'),
        ("server", "shutdown_grace", "-1"),
        ("redis", "address", "localhost"),
        ("redis", "address", '":6379"'),
        ("redis", "address", '"redis://localhost:6379"'),
        ("redis", "address", '"localhost:99999"'),
        ("redis", "db", "-1"),
        ("redis", "password", '"\\0"'),
        ("redis", "password", '"\\ud800"'),
        ("sqlite", "path", '""'),
        ("sqlite", "path", '":memory:"'),
        ("sqlite", "max_open_conns", "0"),
        ("sqlite", "max_idle_conns", "-1"),
        ("sqlite", "conn_max_lifetime", "-1"),
        ("sqlite", "conn_max_lifetime", "1.5"),
        ("database", "url", '"mysql://a/b"'),
        ("database", "url", '"postgresql://host"'),
        ("database", "url", '"postgresql://me:a#b@host/name"'),
        ("jwt", "lifetime_hours", "0"),
        ("jwt", "lifetime_hours", ".inf"),
        ("accounts", "bcrypt_cost", "3"),
        ("accounts", "bcrypt_cost", "17"),
        ("rag", "default_embedding_model", "openai-3-medium"),
        ("chat", "framing", "lines"),
        ("chat", "auto_title", "true"),
        ("chat", "first_token_timeout", "0"),
        ("chat", "first_token_timeout", ".nan"),
        ("chat", "silence_timeout", "soon"),
        ("chat", "context_window", "0"),
        ("chat", "context_windows", "{'': 1}"),
    ],
)
def test_a_bad_value_is_refused_by_path_and_not_shown(
    refusal: Refuse, section: str, key: str, value: str
) -> None:
    text = f"{section}: {{{key}: {value}}}"

    message = refusal(text if section == "sqlite" else SQLITE + text)

    assert message.startswith(f"{section}.{key}")
    assert "expected" in message


@pytest.mark.parametrize(
    ("section", "key", "value", "read"),
    [
        ("server", "host", '"::"', "::"),
        ("server", "host", '"[::1]"', "::1"),
        ("server", "host", '""', ""),
        (
            "server",
            "allowed_hosts",
            "[a.example, .b.example]",
            ("a.example", ".b.example"),
        ),
        ("server", "allowed_hosts", '"*"', ("*",)),
        ("server", "cors_origins", '"*"', ("*",)),
        (
            "server",
            "cors_origins",
            "[HTTPS://A.example:444]",
            ("https://a.example:444",),
        ),
        ("server", "cors_origins", "['capacitor://app']", ("capacitor://app",)),
        ("server", "cors_origins", "[]", ()),
        ("server", "trusted_proxies", "[10.0.0.1, '0::1']", ("10.0.0.1", "::1")),
        ("server", "trusted_proxies", "['::ffff:10.0.0.1']", ("10.0.0.1",)),
        ("server", "shutdown_grace", "0", 0.0),
        ("redis", "address", '"[::1]:6379"', "[::1]:6379"),
        ("sqlite", "conn_max_lifetime", "0, path: a.db", 0),
        ("chat", "auto_title", "off", "off"),
        ("chat", "auto_title", "model", "model"),
        ("chat", "first_token_timeout", "0.5", 0.5),
        ("chat", "context_windows", "{gpt-4*: 128000}", {"gpt-4*": 128000}),
        ("rag", "default_embedding_model", "zhipu-embedding-3", "zhipu-embedding-3"),
        ("rag", "default_embedding_model", "local-ngram", "local-ngram"),
    ],
)
def test_a_good_value_is_kept(
    loaded: Load, section: str, key: str, value: str, read: Any
) -> None:
    text = f"{section}: {{{key}: {value}}}"

    config = loaded(text if section == "sqlite" else SQLITE + text)

    assert getattr(getattr(config, section), key) == read


def test_paths_start_at_the_folder_of_the_file(loaded: Load, tmp_path: Path) -> None:
    relative = loaded("sqlite: {path: ./data/a.db}\nlocal: {chat_model_path: m.gguf}")
    absolute = loaded("sqlite: {path: /data/a.db}\nlocal: {chat_model_path: /m.gguf}")

    assert relative.sqlite.path == tmp_path / "data" / "a.db"
    assert relative.local.chat_model_path == str(tmp_path / "m.gguf")
    assert absolute.sqlite.path == Path("/data/a.db")
    assert absolute.local.chat_model_path == "/m.gguf"


@pytest.mark.parametrize(
    ("server", "hosts"),
    [
        ("{}", ("localhost", "127.0.0.1", "[::1]")),
        ("{host: '::1'}", ("localhost", "127.0.0.1", "[::1]")),
        ("{host: chat.lan}", ("localhost", "127.0.0.1", "[::1]", "chat.lan")),
        ("{host: 'fd00::5'}", ("localhost", "127.0.0.1", "[::1]", "[fd00::5]")),
        ("{host: 0.0.0.0}", ("*",)),
        ("{host: '::'}", ("*",)),
        ("{host: '0:0:0:0:0:0:0:0'}", ("*",)),
        ("{host: ''}", ("*",)),
        ("{host: 0.0.0.0, allowed_hosts: [a.example]}", ("a.example",)),
    ],
)
def test_the_allowed_hosts_follow_from_the_host_unless_given(
    loaded: Load, server: str, hosts: tuple[str, ...]
) -> None:
    assert loaded(SQLITE + f"server: {server}").allowed_hosts == hosts


@pytest.mark.parametrize(
    "url",
    [
        "api.openai.com/v1",
        "ftp://a/v1",
        "https://",
        "https:///v1",
        "https://me:hunter2@a/v1",
        "https://a/v1?key=hunter2",
        "https://a/v1#hunter2",
        "https://a:99999/v1",
        "https://a:0/v1",
        "https://a b/v1",
        "https://[::zz]/v1",
        "https://[:::]/v1",
        "https://a/v1\\nhunter2",
    ],
)
def test_a_base_url_with_anything_but_an_address_is_refused(
    refusal: Refuse, url: str
) -> None:
    message = refusal(f'providers: [{{name: a, base_url: "{url}"}}]')

    assert message.startswith("providers[0].base_url: expected an http(s) URL without")
    assert "hunter2" not in message


@pytest.mark.parametrize(
    "url", ["http://[::1]:8000/v1", "HTTPS://Api.Example.com", "http://my_model:80/a/b"]
)
def test_a_base_url_may_name_any_host_and_port(loaded: Load, url: str) -> None:
    text = SQLITE + f'providers: [{{name: a, base_url: "{url}"}}]'

    assert loaded(text).providers[0].base_url == url


@pytest.mark.parametrize(
    ("rest", "path"),
    [
        ('chat_models: [""]', "providers[0].chat_models[0]"),
        ('chat_models: ["gpt 4"]', "providers[0].chat_models[0]"),
        ("chat_models: gpt*", "providers[0].chat_models"),
        ("embedding_models: {a: ''}", "providers[0].embedding_models.a"),
        ('api_key: "sk-hunter2\\n"', "providers[0].api_key"),
        ('api_key: "sk hunter2"', "providers[0].api_key"),
        ('api_key: "ключ"', "providers[0].api_key"),
    ],
)
def test_patterns_and_keys_of_a_provider_are_checked(
    refusal: Refuse, rest: str, path: str
) -> None:
    message = refusal(f"providers: [{{name: a, base_url: http://a, {rest}}}]")

    assert message.startswith(f"{path}: expected")
    assert "hunter2" not in message
