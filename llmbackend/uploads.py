"""Uploads: those too large for memory, and those whose names are not UTF-8."""

from __future__ import annotations

import re
from typing import IO, Any

from django.core.files.uploadhandler import TemporaryFileUploadHandler
from rest_framework.parsers import MultiPartParser


class NamelessFileUploadHandler(TemporaryFileUploadHandler):
    """Django's names its file with the extension of the upload, of whatever length."""

    def new_file(
        self, field_name: str, file_name: str, *args: Any, **kwargs: Any
    ) -> None:
        super().new_file(field_name, "upload", *args, **kwargs)
        self.file_name = self.file.name = file_name


class UploadParser(MultiPartParser):
    """Takes file names in GB18030 too, as curl on a Chinese Windows sends them."""

    def parse(self, stream: Any, *args: Any, **kwargs: Any) -> Any:
        legible: Any = _LegibleForm(stream)
        return super().parse(legible, *args, **kwargs)


class _LegibleForm:
    """
    A form whose parts have heads in UTF-8: Django drops what is none without a word.

    Only the beginning, 64 kB, is looked at: besides the file, nothing in it is large.
    """

    def __init__(self, form: IO[bytes]) -> None:
        self._form = form
        self._is_beginning = True

    def read(self, size: int) -> bytes:
        read = self._form.read(size)
        is_beginning, self._is_beginning = self._is_beginning, False
        boundary = read.partition(b"\r\n")[0]
        if not is_beginning or not boundary.startswith(b"--"):
            return read
        heads = rb"(?<=%b\r\n)([^\r\n]+\r\n)+" % re.escape(boundary)
        return re.sub(heads, lambda head: _in_utf8(head[0]), read)


def _in_utf8(head: bytes) -> bytes:
    try:
        head.decode()
    except UnicodeDecodeError:
        return head.decode("gb18030", "replace").encode()
    return head
