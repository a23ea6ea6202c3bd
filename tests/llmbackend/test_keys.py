import json
import stat
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet

from llmbackend.config import Config, Database, Jwt, Sqlite
from llmbackend.config_reading import ConfigError
from llmbackend.keys import load_keys

STRONG = "correct-horse-battery-staple-and-more"


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(sqlite=Sqlite(path=tmp_path / "llm_backend.db"))


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    return tmp_path / "llm_backend.db.keys"


def with_secret(config: Config, secret: str) -> Config:
    return replace(config, jwt=Jwt(secret=secret))


def shared(config: Config, secret: str) -> Config:
    return replace(
        with_secret(config, secret), database=Database(url="postgresql://db/llm")
    )


def test_the_first_start_writes_keys_that_later_starts_read(
    config: Config, stored: Path
) -> None:
    first, second = load_keys(config), load_keys(config)

    assert (first.django, first.jwt, first.field) == (
        second.django,
        second.jwt,
        second.field,
    )
    assert [path.name for path in stored.parent.iterdir()] == [stored.name]


def test_the_file_is_for_its_owner_alone(config: Config, stored: Path) -> None:
    load_keys(config)

    assert stat.S_IMODE(stored.stat().st_mode) == 0o600


def test_the_secrets_are_distinct_and_long(config: Config) -> None:
    keys = load_keys(config)

    assert len({keys.django, keys.jwt, *keys.field}) == 3
    assert len(keys.django) >= 50
    assert len(keys.jwt) >= 50
    assert Fernet(keys.field[0])


def test_the_secrets_are_not_in_the_representation(config: Config) -> None:
    keys = load_keys(config)

    for secret in (keys.django, keys.jwt, *keys.field):
        assert secret not in repr(keys)


def test_processes_that_start_at_once_agree(config: Config, stored: Path) -> None:
    with ProcessPoolExecutor(6, get_context("spawn")) as processes:
        loaded = list(processes.map(load_keys, [config] * 6))

    assert len({keys.jwt for keys in loaded}) == 1
    assert [path.name for path in stored.parent.iterdir()] == [stored.name]


def test_a_strong_secret_of_the_configuration_signs(config: Config) -> None:
    keys = load_keys(with_secret(config, STRONG))

    assert keys.jwt == STRONG
    assert keys.notice == ""


@pytest.mark.parametrize(
    ("secret", "why"),
    [
        ("", "is empty"),
        ("S3cureK3y#2024!AIsafety", "is the published example"),
        ("hunter2", "is shorter than 32 bytes"),
    ],
)
def test_a_weak_secret_never_signs_and_the_notice_says_so(
    config: Config, secret: str, why: str
) -> None:
    keys = load_keys(with_secret(config, secret))

    assert keys.jwt not in {secret, ""}
    assert keys.notice == (
        f"jwt.secret {why}; "
        "the generated secret in llm_backend.db.keys is used instead."
    )


def test_a_file_with_an_older_field_key_gives_both_newest_first(
    config: Config, stored: Path
) -> None:
    older = load_keys(config).field[0]
    newer = Fernet.generate_key().decode()
    rewrite(stored, field=[newer, older])

    assert load_keys(config).field == (newer, older)


def rewrite(stored: Path, **changes: Any) -> None:
    content = json.loads(stored.read_text()) | changes
    stored.write_text(json.dumps(content))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o602])
def test_a_file_open_to_others_is_refused_with_the_command_that_mends_it(
    config: Config, stored: Path, mode: int
) -> None:
    load_keys(config)
    stored.chmod(mode)

    with pytest.raises(
        ConfigError, match=f"open to other users; run: chmod 600 {stored}"
    ):
        load_keys(config)


@pytest.mark.parametrize(
    "content", ["", "hunter2", "[]", "{}", '{"version": 2}', "\udcff", "[" * 100_000]
)
def test_a_file_that_holds_something_else_is_refused_and_left_alone(
    config: Config, stored: Path, content: str
) -> None:
    load_keys(config)
    stored.write_bytes(content.encode(errors="surrogateescape"))

    with pytest.raises(ConfigError) as caught:
        load_keys(config)

    assert str(caught.value) == (
        f"{stored}: not a complete key file; restore it from a backup"
    )
    assert stored.read_bytes() == content.encode(errors="surrogateescape")


@pytest.mark.parametrize(
    "changes",
    [
        {"django": ""},
        {"jwt": "short"},
        {"jwt": None},
        {"field": []},
        {"field": "hunter2"},
        {"field": ["hunter2"]},
        {"field": [7]},
        {"field": [None]},
        {"version": "1"},
    ],
)
def test_a_file_with_one_bad_key_is_refused(
    config: Config, stored: Path, changes: dict[str, Any]
) -> None:
    load_keys(config)
    rewrite(stored, **changes)

    with pytest.raises(ConfigError, match="not a complete key file"):
        load_keys(config)


def test_two_secrets_that_are_alike_are_refused(config: Config, stored: Path) -> None:
    django = load_keys(config).django

    with pytest.raises(ConfigError, match="expected no two alike") as caught:
        load_keys(with_secret(config, django))

    assert django not in str(caught.value)


def test_a_field_key_given_twice_is_refused(config: Config, stored: Path) -> None:
    key = load_keys(config).field[0]
    rewrite(stored, field=[key, key])

    with pytest.raises(ConfigError, match="expected no two alike"):
        load_keys(config)


def test_a_file_that_cannot_be_read_is_refused(config: Config, stored: Path) -> None:
    stored.mkdir()

    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_keys(config)


def test_a_folder_that_is_not_there_is_refused(config: Config, tmp_path: Path) -> None:
    lost = replace(config, sqlite=Sqlite(path=tmp_path / "absent" / "a.db"))

    with pytest.raises(
        ConfigError, match="cannot be written: No such file or directory"
    ):
        load_keys(lost)


def test_machines_that_share_a_database_derive_the_same_keys(
    config: Config, tmp_path: Path
) -> None:
    other = replace(config, sqlite=Sqlite(path=tmp_path / "elsewhere.db"))

    one, two = load_keys(shared(config, STRONG)), load_keys(shared(other, STRONG))

    assert (one.django, one.jwt, one.field) == (two.django, two.jwt, two.field)
    assert one.jwt == STRONG
    assert one.notice == ""


def test_derived_keys_are_distinct_and_follow_the_secret(config: Config) -> None:
    one = load_keys(shared(config, STRONG))
    two = load_keys(shared(config, STRONG + "!"))

    assert len({one.django, one.jwt, *one.field, two.django, two.jwt, *two.field}) == 6
    assert len(one.django) >= 50
    assert Fernet(one.field[0])


def test_derived_keys_stay_what_they_are(config: Config) -> None:
    """Another derivation would lose every API key that was ever stored."""
    keys = load_keys(shared(config, STRONG))

    assert keys.field == ("PhNOux6nKf6PbCYadCXlWEr1uHdRqTa9ccJtypMILVk=",)


def test_a_shared_database_writes_nothing(config: Config, tmp_path: Path) -> None:
    load_keys(shared(config, STRONG))

    assert list(tmp_path.iterdir()) == []
