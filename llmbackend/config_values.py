"""
What one value of config.yaml may be: readers, and the types that carry them.

A reader takes what YAML gave and returns the value, or raises ValueError saying what
was expected, without repeating what was given: it may be a secret.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit


def is_wildcard(host: str) -> bool:
    """Whether listening on `host` means listening on every address."""
    return not host or (_is_ip(host) and ipaddress.ip_address(host).is_unspecified)


def _text(value: Any) -> str:
    """Refuse, beside other types, text that no file name or database could hold."""
    if not isinstance(value, str):
        raise ValueError("text (in quotes)")
    if re.search("[\0\ud800-\udfff]", value):
        raise ValueError("text without NUL or half characters")
    return value


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError("true or false")


def _whole(least: int, most: int = 2**31 - 1) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        # Not isinstance(): True is an int in Python.
        if type(value) is int and least <= value <= most:
            return value
        raise ValueError(f"a whole number from {least} to {most}")

    return read


def _number(most: float, *, or_zero: bool = False) -> Callable[[Any], float]:
    def read(value: Any) -> float:
        if type(value) in {int, float} and (
            0 < value <= most or (or_zero and value == 0)
        ):
            return float(value)
        raise ValueError(f"a number {'from' if or_zero else 'above'} 0 to {most:g}")

    return read


def _matching(pattern: str, expected: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if isinstance(value, str) and re.fullmatch(pattern, value, re.ASCII):
            return value
        raise ValueError(expected)

    return read


def _auto_title(value: Any) -> str:
    # YAML reads a bare `off` as false.
    value = "off" if value is False else value
    return _matching("question|model|off", "question, model or off")(value)


def _port(value: Any) -> int:
    if isinstance(value, str) and re.fullmatch(r":?\d{1,5}", value, re.ASCII):
        value = int(value.removeprefix(":"))
    return _whole(1, 65535)(value)


def _host(value: Any) -> str:
    bare = value.strip("[]") if isinstance(value, str) else value
    if isinstance(bare, str) and _is_ip(bare):
        return str(ipaddress.ip_address(bare))
    return _matching(r"[\w.-]*", "a host name or an IP address")(value)


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _ip(value: Any) -> str:
    if isinstance(value, str) and _is_ip(value):
        address = ipaddress.ip_address(value)
        # What a socket that listens on every address calls an IPv4 peer.
        return str(getattr(address, "ipv4_mapped", None) or address)
    raise ValueError("an IP address")


def _url(pattern: str, expected: str) -> Callable[[Any], str]:
    matching = _matching(pattern, expected)

    def read(value: Any) -> str:
        text = matching(value)
        with suppress(ValueError):
            if urlsplit(text).port != 0:
                return text
        raise ValueError(expected)

    return read


def _origin(value: Any) -> str:
    expected = "an origin such as https://app.example.com, or *"
    return _url(rf"\*|[A-Za-z][\w+.-]*://{_AUTHORITY}", expected)(value).lower()


def _address(value: Any) -> str:
    expected = "host:port, or empty for none"
    text = _matching(rf"(?:{_AUTHORITY})?", expected)(value)
    with suppress(ValueError):
        if not text or urlsplit(f"//{text}").port:
            return text
    raise ValueError(expected)


def _file_path(value: Any) -> Path:
    if not isinstance(value, str) or value.strip() in {"", ".", ":memory:"}:
        raise ValueError("the path of a file")
    return Path(_text(value))


READERS: dict[Any, Any] = {str: _text, bool: _flag}
_AUTHORITY = r"(?:[\w.-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?"

Port = Annotated[int, _port]
Count = Annotated[int, _whole(1)]
CountOrZero = Annotated[int, _whole(0)]
BcryptCost = Annotated[int, _whole(4, 16)]
Seconds = Annotated[float, _number(86400)]
Grace = Annotated[float, _number(86400, or_zero=True)]
Hours = Annotated[float, _number(87600)]
Host = Annotated[str, _host]
HostPattern = Annotated[
    str,
    _matching(
        r"\*|\.?[\w-][\w.-]*|\[[0-9A-Fa-f:.]+\]",
        "a host name without a port, .example.com for its subdomains too, or *",
    ),
]
Origin = Annotated[str, _origin]
Ip = Annotated[str, _ip]
Address = Annotated[str, _address]
FilePath = Annotated[Path, _file_path]
Name = Annotated[
    str, _matching(r"[A-Za-z0-9][\w.-]*", "a name of letters, digits, '.', '_', '-'")
]
Pattern = Annotated[str, _matching(r"\S+", "a name without spaces")]
ApiKey = Annotated[str, _matching(r"[!-~]*", "a key of visible ASCII characters")]
Registration = Annotated[str, _matching("open|closed", "open or closed")]
MetricsToken = Annotated[
    str, _matching(r"|[!-~]{16,}", "16 or more visible ASCII characters, or empty")
]
LogFormat = Annotated[str, _matching("line|json", "line or json")]
Framing = Annotated[str, _matching("auto|seed|sse", "auto, seed or sse")]
OnDisconnect = Annotated[str, _matching("continue|stop", "continue or stop")]
AutoTitle = Annotated[str, _auto_title]
BaseUrl = Annotated[
    str,
    _url(
        rf"(?i:https?)://{_AUTHORITY}(?:/[^\s?#]*)?",
        "an http(s) URL without credentials, query or fragment",
    ),
]
PostgresUrl = Annotated[
    str,
    _url(
        r"|postgres(?:ql)?://[^\s#/]*/[^\s#?/]+(?:\?[^\s#]*)?",
        "postgresql://user:password@host:port/name",
    ),
]
