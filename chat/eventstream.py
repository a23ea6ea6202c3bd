"""Read server-sent events from a provider's bytes, however they are cut; pure."""

from __future__ import annotations

from llmbackend.errors import ProviderProtocol

BOM = b"\xef\xbb\xbf"


class EventReader:
    """
    The `data` of each event, as the bytes complete it.

    >>> reader = EventReader()
    >>> reader.feed(b"data: one\\n\\nda")
    [b'one']
    >>> reader.feed(b"ta: two\\r\\n\\r\\n")
    [b'two']
    """

    __slots__ = ("_after_cr", "_begun", "_data", "_held", "_max", "_tail")

    def __init__(self, *, max_line: int = 1 << 20) -> None:
        """`max_line`: bytes a line may have, and the data of one event in all."""
        self._max = max_line
        self._tail = bytearray()
        self._data: list[bytes] = []
        self._held = 0
        self._begun = False
        self._after_cr = False

    @property
    def is_between(self) -> bool:
        """Whether what was fed ends where an event ends."""
        return self._begun and not self._tail and not self._data

    def feed(self, data: bytes) -> list[bytes]:
        """
        The payloads these bytes complete, in order; a payload may be empty.

        Raise ProviderProtocol when a line or an event passes its bound.
        """
        # One event of one line and no more, as most reads are.
        end = len(data) - 2
        if (
            data.startswith(b"data: ")
            and data.find(b"\n") == end
            and data.endswith(b"\n")
            and b"\r" not in data
            and self.is_between
            and len(data) <= self._max
        ):
            self._after_cr = False
            return [data[6:end]]
        if self._after_cr and data:
            self._after_cr = False
            data = data.removeprefix(b"\n")
        if b"\r" in data:
            self._after_cr = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if b"\n" not in data:
            self._tail += data
            self._check(len(self._tail))
            return []
        lines = data.split(b"\n")
        if self._tail:
            lines[0] = bytes(self._tail) + lines[0]
            self._tail.clear()
        self._tail += lines.pop()
        self._check(len(self._tail))
        return self._events(lines)

    def flush(self) -> list[bytes]:
        """
        What the end of the stream completes: at most one payload.

        The standard drops an event without its blank line, and a line without its
        end. Some providers end with `data: [DONE]` all the same, so both are given
        here; the last line may be cut short.
        """
        return self.feed(b"\n\n") if self._tail or self._data else []

    def _events(self, lines: list[bytes]) -> list[bytes]:
        if not self._begun:
            self._begun = True
            lines[0] = lines[0].removeprefix(BOM)
        events = []
        for line in lines:
            if line.startswith(b"data:"):
                self._held += len(line)
                self._check(self._held)
                self._data.append(line[6:] if line.startswith(b"data: ") else line[5:])
            elif not line:
                if self._data:
                    events.append(b"\n".join(self._data))
                    self._data.clear()
                    self._held = 0
            elif line == b"data":
                self._held += len(line)
                self._check(self._held)
                self._data.append(b"")
        return events

    def _check(self, size: int) -> None:
        if size > self._max:
            raise ProviderProtocol
