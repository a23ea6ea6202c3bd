"""A zip archive whose contents can be trusted to be as small as they look."""

from __future__ import annotations

import io
import stat
import zipfile
import zlib
from collections.abc import Iterator

from llmbackend.errors import EncryptedDocument, UnreadableDocument

MAX_ENTRIES = 2_000
MAX_INFLATED = 100 << 20
MAX_ENTRY = 50 << 20
MAX_RATIO = 200
# A form of thousands of empty cells packs as well as a bomb does.
RATIO_COUNTS_FROM = 16 << 20
STEP = 64 << 10
_ENCRYPTED = 0x1
_PLAIN = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
_TOO_LARGE = "The document unpacks to more than a document may hold."


class Archive:
    """
    The entries of a zip file, inflated in small steps.

    What its directory declares is not believed: on opening, every entry is inflated
    once, the bytes counted and thrown away. Raises UnreadableDocument, or
    EncryptedDocument for an encrypted entry.
    """

    def __init__(self, data: bytes) -> None:
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(data))
        except (
            zipfile.BadZipFile,
            ValueError,
            OverflowError,
            NotImplementedError,
        ) as e:
            raise UnreadableDocument from e
        self._entries = {entry.filename: entry for entry in self._zip.infolist()}
        self._check_directory()
        left = MAX_INFLATED
        for entry in self._entries.values():
            left -= self._check_entry(entry, min(left, MAX_ENTRY))

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def names(self) -> list[str]:
        return list(self._entries)

    def steps(self, name: str) -> Iterator[bytes]:
        """The content of an entry, 64 KiB at a time."""
        if name not in self._entries:
            raise UnreadableDocument
        return self._inflated(self._entries[name])

    def _check_directory(self) -> None:
        entries = self._zip.infolist()
        if len(entries) > MAX_ENTRIES or len(entries) != len(self._entries):
            raise UnreadableDocument
        if any(entry.flag_bits & _ENCRYPTED for entry in entries):
            raise EncryptedDocument
        end = 0
        for entry in sorted(entries, key=lambda entry: entry.header_offset):
            is_link = stat.S_ISLNK(entry.external_attr >> 16)
            overlaps = entry.header_offset < end
            if is_link or overlaps or entry.compress_type not in _PLAIN:
                raise UnreadableDocument
            end = entry.header_offset + entry.compress_size

    def _check_entry(self, entry: zipfile.ZipInfo, limit: int) -> int:
        size = 0
        for step in self._inflated(entry):
            size += len(step)
            swollen = size > max(RATIO_COUNTS_FROM, entry.compress_size * MAX_RATIO)
            if size > limit or swollen:
                raise UnreadableDocument(_TOO_LARGE)
        return size

    def _inflated(self, entry: zipfile.ZipInfo) -> Iterator[bytes]:
        try:
            with self._zip.open(entry) as opened:
                while step := opened.read(STEP):
                    yield step
        except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
            raise UnreadableDocument from error
        except (NotImplementedError, RuntimeError) as error:
            raise UnreadableDocument from error
