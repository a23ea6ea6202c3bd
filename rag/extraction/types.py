"""The types of file that can be read."""

from __future__ import annotations

import re

from llmbackend.errors import UnsupportedType

TYPES = {"txt": "txt", "md": "md", "markdown": "md", "docx": "docx", "pdf": "pdf"}


def type_of(name: str) -> str:
    r"""The type a file's extension claims; raises UnsupportedType for any other.

    >>> type_of("../C:\\x\0\u202e.PDF"), type_of("第一章.markdown")
    ('pdf', 'md')
    """
    _, dot, extension = re.split(r"[/\\]", name)[-1].rpartition(".")
    found = TYPES.get(extension.strip().casefold()) if dot else None
    if found is None:
        raise UnsupportedType
    return found
