"""The three secrets of an installation, and where they are kept."""

from __future__ import annotations

import base64
import json
import os
import secrets
import shlex
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from llmbackend.config import Config, is_weak_secret, weakness
from llmbackend.config_reading import ConfigError

_VERSION = 1


@dataclass(frozen=True, kw_only=True, repr=False)
class Keys:
    """
    What Django signs with, what tokens are signed with, what API keys are sealed with.

    `field` holds Fernet keys, newest first: the first seals, all of them unseal.
    `notice` is a sentence for the operator when the configured jwt.secret is not the
    one in use, else empty.
    """

    django: str
    jwt: str
    field: tuple[str, ...]
    notice: str = ""


def load_keys(config: Config) -> Keys:
    """
    Return the secrets `config` leads to; raise ConfigError if they cannot be trusted.

    With SQLite they are read from `<database file>.keys`, which is written first if it
    is not there; any number of processes may start at once. With `database.url` nothing
    is written: machines that share a jwt.secret derive the same keys from it.
    """
    keys = _derived(config) if config.database.url else _kept(config)
    in_use = [keys.django, keys.jwt, *keys.field]
    if len(set(in_use)) < len(in_use):
        raise ConfigError("jwt.secret and the stored keys: expected no two alike")
    return keys


def key_file(config: Config) -> Path:
    """Where the secrets are kept beside an SQLite database."""
    return Path(f"{config.sqlite.path}.keys")


def is_complete(content: bytes) -> bool:
    """Whether `content` is that of a key file with which a server would start."""
    try:
        _parse(content)
    except (ValueError, RecursionError):
        return False
    return True


def add_field_key(config: Config) -> None:
    """Put a new field key before the others in the key file."""
    _rewrite(key_file(config), lambda field: [Fernet.generate_key().decode(), *field])


def drop_old_field_keys(config: Config) -> None:
    """Leave the newest field key alone in the key file."""
    _rewrite(key_file(config), lambda field: field[:1])


def keep_owner(draft: Path, *, of: Path) -> None:
    """
    Have `draft` belong to whom the file belongs that it will replace, if there is one.

    Else what the administrator runs as root leaves the server files it cannot read.
    """
    with suppress(FileNotFoundError, PermissionError):
        there = of.stat()
        os.chown(draft, there.st_uid, there.st_gid)


def _rewrite(path: Path, change: Callable[[list[str]], list[str]]) -> None:
    """Replace the key file as a whole, so that it is never seen half-written."""
    content = json.loads(path.read_bytes())
    content["field"] = change(content["field"])
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(json.dumps(content, indent=2) + "\n")
            file.flush()
            os.fsync(handle)
        keep_owner(Path(name), of=path)
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)


def _derived(config: Config) -> Keys:
    secret = config.jwt.secret
    return Keys(
        django=_derive(secret, purpose="django signing", length=48),
        jwt=secret,
        field=(_derive(secret, purpose="field encryption", length=32),),
    )


def _derive(secret: str, *, purpose: str, length: int) -> str:
    label = f"llmbackend {purpose} v{_VERSION}".encode()
    kdf = HKDF(algorithm=SHA256(), length=length, salt=None, info=label)
    return base64.urlsafe_b64encode(kdf.derive(secret.encode())).decode()


def _kept(config: Config) -> Keys:
    path = key_file(config)
    _create(path)
    stored = _read(path)
    weak = weakness(config.jwt.secret)
    if not weak:
        return Keys(django=stored.django, jwt=config.jwt.secret, field=stored.field)
    notice = f"jwt.secret {weak}; the generated secret in {path.name} is used instead."
    return Keys(django=stored.django, jwt=stored.jwt, field=stored.field, notice=notice)


def _create(path: Path) -> None:
    """Put a complete key file at `path`, unless there is one."""
    try:
        if path.exists():
            return
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "w") as file:
                file.write(_generated())
                file.flush()
                os.fsync(handle)
            _publish(Path(name), at=path)
        finally:
            Path(name).unlink()
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be written: {exc.strerror}") from exc


def _generated() -> str:
    content = {
        "version": _VERSION,
        "django": secrets.token_urlsafe(48),
        "jwt": secrets.token_urlsafe(48),
        "field": [Fernet.generate_key().decode()],
    }
    return json.dumps(content, indent=2) + "\n"


def _publish(draft: Path, *, at: Path) -> None:
    try:
        # A link never replaces a file, and the name is never seen half-written.
        at.hardlink_to(draft)
    except FileExistsError:
        return
    folder = os.open(at.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _read(path: Path) -> Keys:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read()
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror}") from exc
    if mode & 0o077:
        command = f"chmod 600 {shlex.quote(str(path))}"
        raise ConfigError(f"{path}: open to other users; run: {command}")
    try:
        return _parse(content)
    except (ValueError, RecursionError):
        # Without its cause, which may carry the keys.
        problem = "not a complete key file; restore it from a backup"
        raise ConfigError(f"{path}: {problem}") from None


def _parse(content: bytes) -> Keys:
    match json.loads(content):
        case {"version": 1, "django": str(django), "jwt": str(jwt), "field": [*field]}:
            for key in field:
                Fernet(str(key))
            if field and not is_weak_secret(django) and not is_weak_secret(jwt):
                return Keys(django=django, jwt=jwt, field=tuple(map(str, field)))
    raise ValueError("incomplete")
