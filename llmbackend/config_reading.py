"""
From YAML to dataclasses, whatever their keys are; pure.

Errors name the key and what was expected, never what was given: it may be a secret.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import yaml

from llmbackend.config_values import READERS


class ConfigError(Exception):
    """One line for the operator: which key is wrong, and what was expected there."""


def parse(path: Path) -> Any:
    """What the YAML file at `path` holds; raises ConfigError."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        _refuse_duplicates(yaml.compose(text, yaml.SafeLoader), where="")
        return yaml.safe_load(text)
    except OSError as exc:
        raise ConfigError(f"cannot read {path.absolute()}: {exc.strerror}") from exc
    except UnicodeDecodeError:
        raise ConfigError("expected text in UTF-8") from None
    except yaml.MarkedYAMLError as exc:
        # The parser's own words quote the line, which may hold a secret.
        mark = exc.problem_mark or exc.context_mark
        line = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigError(f"{line}expected valid YAML") from None
    except (yaml.YAMLError, ValueError, RecursionError, KeyError, AttributeError):
        # The last two are the parser's for a tag whose text is none of its kind.
        raise ConfigError("expected valid YAML") from None


def _refuse_duplicates(node: yaml.Node | None, *, where: str) -> None:
    """YAML itself would let the last of two equal keys win in silence."""
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _refuse_duplicates(item, where=f"{where}[{index}]")
    elif isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, item in node.value:
            name = str(key.value) if isinstance(key, yaml.ScalarNode) else "?"
            if name in seen:
                raise ConfigError(f"{_key(where, name)}: expected once, given twice")
            seen.add(name)
            _refuse_duplicates(item, where=_key(where, name))


def build(kind: Any, value: Any, *, where: str, environ: Mapping[str, str]) -> Any:
    """Turn what YAML gave into `kind`: a dataclass, a tuple, a dict or a scalar."""
    if is_dataclass(kind):
        return _build_section(kind, value, where=where, environ=environ)
    if get_origin(kind) is tuple:
        return _build_items(kind, value, where=where, environ=environ)
    if get_origin(kind) is dict:
        names, values = get_args(kind)
        return {
            build(names, key, where=where, environ=environ): build(
                values, item, where=_key(where, key), environ=environ
            )
            for key, item in _mapping(value, where=where).items()
        }
    base, read = get_args(kind) or (kind, READERS.get(kind))
    if isinstance(value, str):
        value = _interpolated(value, base=base, where=where, environ=environ)
    try:
        return read(value)
    except ValueError as exc:
        raise ConfigError(f"{where}: expected {exc}, got {_kind_of(value)}") from None


def _build_section(
    kind: Any, value: Any, *, where: str, environ: Mapping[str, str]
) -> Any:
    given = _mapping(value, where=where)
    hints = get_type_hints(kind, include_extras=True)
    for key in given:
        if key not in hints:
            # What is no plain name may be `password:hunter2`, a space forgotten.
            plain = isinstance(key, str) and key.isidentifier()
            path = _key(where, key) if plain else where or "top level"
            raise ConfigError(f"{path}: unknown key, expected {', '.join(hints)}")
    for each in fields(kind):
        required = each.default is MISSING and each.default_factory is MISSING
        if required and each.name not in given:
            raise ConfigError(f"{_key(where, each.name)}: expected, but missing")
    return kind(
        **{
            key: build(hints[key], item, where=_key(where, key), environ=environ)
            for key, item in given.items()
        }
    )


def _build_items(
    kind: Any, value: Any, *, where: str, environ: Mapping[str, str]
) -> tuple[Any, ...]:
    # "*" alone is how most programs write "any".
    items = ["*"] if value == "*" else value
    if not isinstance(items, list):
        raise ConfigError(f"{where}: expected a list, got {_kind_of(value)}")
    item_kind = get_args(kind)[0]
    return tuple(
        build(item_kind, item, where=f"{where}[{index}]", environ=environ)
        for index, item in enumerate(items)
    )


def _interpolated(
    text: str, *, base: type, where: str, environ: Mapping[str, str]
) -> Any:
    """Fill in the references of `text`; a filled-in number or truth value is read."""

    def fill(match: re.Match[str]) -> str:
        if match[0] == "$${":
            return "${"
        if not match["closed"]:
            problem = "${NAME} or ${NAME:-default}, or $${ for a literal ${"
            raise ConfigError(f"{where}: expected {problem}")
        found = environ.get(match["name"])
        if found is None and match["default"] is None:
            problem = f"the environment variable {match['name']}, which is not set"
            raise ConfigError(f"{where}: expected {problem}")
        return found or match["default"] or ""

    filled = _REFERENCE.sub(fill, text)
    if filled != text and base in {int, float, bool}:
        with suppress(ValueError):
            return json.loads(filled)
    return filled


_REFERENCE = re.compile(
    r"\$\$\{|\$\{(?:(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?"
    r"(?P<closed>\}))?"
)


def _mapping(value: Any, *, where: str) -> dict[Any, Any]:
    if isinstance(value, dict):
        return value
    problem = f"expected a mapping, got {_kind_of(value)}"
    raise ConfigError(f"{where}: {problem}" if where else problem)


def _key(where: str, key: object) -> str:
    name = key if isinstance(key, str) and key.isidentifier() else repr(key)[:60]
    return f"{where}.{name}" if where else name


def _kind_of(value: Any) -> str:
    """Name what was given without showing it: it may be a secret."""
    kinds = {bool: "true or false", int: "a whole number", float: "a number"}
    kinds |= {list: "a list", dict: "a mapping", type(None): "nothing"}
    if isinstance(value, str):
        return "other text" if value else "empty text"
    return kinds.get(type(value), f"a {type(value).__name__}")
