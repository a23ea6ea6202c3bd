"""
What libraries import in case it is wanted, and nothing here wants: a process is spared.

Each is named with what it cost a server, in memory and in time of its start.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import module_from_spec
from threading import RLock
from types import ModuleType
from typing import Any

# psycopg and the fields of PostgreSQL's own types; a client for its tests; colours for
# its pages: 14 MB and 0.1 s.
NOT_FOR_DRF = ("django.contrib.postgres.fields", "requests", "pygments")
UNASKED = (
    # Models of all that OpenAI can be asked: 9 MB and 0.2 s.
    "openai.types",
    "openai.types.responses",
    # For one signal that simplejwt takes from there: 2 MB and 0.04 s.
    "django.test",
)


def spare() -> None:
    """To be called before anything imports DRF or the SDK; harmless afterwards."""
    with absent(*NOT_FOR_DRF):
        import rest_framework.compat  # noqa: F401
    for name in UNASKED:
        put_off(name)


@contextmanager
def absent(*names: str) -> Iterator[None]:
    """Have what is imported meanwhile believe that modules are not installed."""
    present = {name: sys.modules[name] for name in names if name in sys.modules}
    sys.modules.update(dict.fromkeys(names))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]
        sys.modules.update(present)


class PutOff(ModuleType):
    """
    A package whose own module runs when something of it is first asked for.

    Its submodules are imported without that. (To importlib's LazyLoader, the search
    for a submodule is a question.)
    """

    _asked = False
    _lock = RLock()

    def __getattr__(self, name: str) -> Any:
        with self._lock:
            if not self._asked:
                self._asked = True
                spec: Any = self.__spec__
                spec.loader.exec_module(self)
        return super().__getattribute__(name)


def put_off(name: str) -> None:
    """Make a PutOff of a package; nothing where it is imported already, or unknown."""
    spec = _located(name)
    if name in sys.modules or spec is None:
        return
    module = PutOff(name)
    for attribute, value in vars(module_from_spec(spec)).items():
        setattr(module, attribute, value)
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent in sys.modules:
        setattr(sys.modules[parent], child, module)


def _located(name: str) -> ModuleSpec | None:
    """Where a module is, found without importing its package."""
    parent, _, _ = name.rpartition(".")
    if not parent:
        return PathFinder.find_spec(name)
    package = _located(parent)
    if package is None:
        return None
    return PathFinder.find_spec(name, package.submodule_search_locations)
