"""Patterns of model names, as configuration and API keys have them."""

from __future__ import annotations

from fnmatch import fnmatchcase
from functools import lru_cache


@lru_cache(maxsize=4096)
def matches(model: str, pattern: str) -> bool:
    """
    Whether a model name fits a pattern, regardless of case; `*` is any text.

    >>> matches("gpt-4o", "GPT-*"), matches("gpt-4o", "gpt-4")
    (True, False)
    """
    return fnmatchcase(model.lower(), pattern.lower())
