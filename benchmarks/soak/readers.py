"""Readers: those that take everything, those that stop, and those that vanish."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.load import Reading, Target
from benchmarks.stub import SEAL

_CHUNK = re.compile(rb"([0-9a-f]+)\r\n")
# The smallest the kernel gives: what a reader leaves lying is the sender's.
LITTLE = 4096


class KeepingReader(Reading):
    """Reads one answer, and keeps it byte by byte."""

    def __init__(self, request: bytes) -> None:
        super().__init__(request)
        self._received: list[bytes] = []

    def data_received(self, data: bytes) -> None:
        self._received.append(data)
        super().data_received(data)

    @property
    def text(self) -> str:
        """What the answer said, as a client joins it."""
        head, _, body = b"".join(self._received).partition(b"\r\n\r\n")
        if b"chunked" not in head.lower():
            return ""
        frames = unchunked(body).decode().split("\n\n")
        lines = [line for frame in frames for line in frame.split("\n")]
        told = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
        return "".join(each["data"] for each in told if each["event"] == "message")


def unchunked(body: bytes) -> bytes:
    """The content of a chunked body."""
    parts, place = [], 0
    while (found := _CHUNK.match(body, place)) and (size := int(found[1], 16)):
        parts.append(body[found.end() : found.end() + size])
        place = found.end() + size + 2
    return b"".join(parts)


def is_exact(text: str) -> bool:
    """Whether a sealed answer is what its provider said, to the letter."""
    said, seal, digest = text.partition(SEAL.decode())
    return bool(seal) and hashlib.sha256(said.encode()).hexdigest() == digest


async def read(target: Target, conversation: int, order: str) -> KeepingReader:
    """Ask, and read to the end."""
    path = f"/api/chat/{conversation}?format=sse"
    request = target.request("POST", path, {"message": order})
    loop = asyncio.get_running_loop()
    _, reading = await loop.create_connection(
        lambda: KeepingReader(request), *target.address
    )
    await reading.done
    return reading


def connections(target: Target, request: bytes, count: int) -> list[socket.socket]:
    """So many connections that have asked, and read nothing yet."""
    made = []
    for _ in range(count):
        plain = socket.socket()
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, LITTLE)
        plain.connect(target.address)
        plain.sendall(request)
        made.append(plain)
    return made


def ports(sockets: Sequence[socket.socket]) -> set[int]:
    return {plain.getsockname()[1] for plain in sockets}


@dataclass(frozen=True, slots=True)
class Vanishing:
    """Readers in a process of their own, which is stopped and never says goodbye."""

    process: subprocess.Popen[bytes]
    ports: set[int]

    @classmethod
    def start(cls, target: Target, request: bytes, count: int) -> Vanishing:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "benchmarks.soak.readers",
                target.base_url,
                request,
                str(count),
            ],
            stdout=subprocess.PIPE,
        )
        told = process.stdout.readline() if process.stdout else b"[]"
        return cls(process, set(json.loads(told)))

    def vanish(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def end(self) -> None:
        self.process.kill()
        # Closes the pipe, too.
        self.process.communicate()


@dataclass(frozen=True, slots=True)
class Absent:
    """Those that take nothing: some that only do not read, some that are stopped."""

    stalled: list[socket.socket]
    vanishing: Vanishing

    @property
    def ports(self) -> set[int]:
        return ports(self.stalled) | self.vanishing.ports

    def leave(self) -> None:
        self.vanishing.end()
        for plain in self.stalled:
            plain.close()


def main() -> None:
    """Connect as the arguments say, tell the ports, and read until stopped."""
    base_url, request, count = sys.argv[1:]
    made = connections(Target(base_url, ""), request.encode(), int(count))
    print(json.dumps(sorted(ports(made))), flush=True)
    for plain in made:
        plain.setblocking(False)
    while True:
        for plain in made:
            try:
                plain.recv(LITTLE)
            except BlockingIOError:
                continue
        time.sleep(0.01)


if __name__ == "__main__":
    main()
