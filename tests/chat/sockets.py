"""The WebSocket of a conversation, as a client holds it."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.chat.streams import Event
from tests.patience import PATIENCE


class Socket:
    """A signed-in WebSocket; what it is told are events like those of a stream."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    def send(self, kind: str, **fields: Any) -> None:
        self.connection.send(json.dumps({"type": kind, **fields}))

    def event(self) -> Event:
        frame = json.loads(self.connection.recv(PATIENCE))
        return Event(frame["event"], frame["data"], frame.get("id", ""))

    def events(self) -> Iterator[Event]:
        """What comes up to an answer's end, a refusal, or word that there is none."""
        while True:
            event = self.event()
            yield event
            if event.name in {"done", "error", "idle"}:
                return

    def vanish(self) -> None:
        """Reset the connection, as a client does whose machine is switched off."""
        plain: socket.socket = self.connection.socket
        linger_not = struct.pack("ii", 1, 0)
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_not)
        plain.close()

    def last_words(self) -> tuple[list[Event], int]:
        """What comes until the server closes the socket, and the code it says."""
        told = []
        try:
            while True:
                told.append(self.event())
        except ConnectionClosed as closed:
            return told, closed.rcvd.code if closed.rcvd else 0


@contextmanager
def socket_of(client: httpx2.Client, conversation: int) -> Iterator[Socket]:
    """A WebSocket with the token of `client`, which the server has said is ready."""
    path = path_of(conversation)
    with opened(client, path, "bearer", token_of(client)) as socket:
        assert socket.event().name == "ready"
        yield socket


@contextmanager
def opened(
    client: httpx2.Client, path: str, *offered: str, **options: Any
) -> Iterator[Socket]:
    """A WebSocket that offers these subprotocols and has said nothing yet."""
    url = str(client.base_url).rstrip("/").replace("http", "ws", 1)
    with connect(
        url + path,
        subprotocols=list(offered) or None,  # type: ignore[arg-type]
        compression=None,
        proxy=None,
        max_size=None,
        open_timeout=PATIENCE,
        **options,
    ) as connection:
        yield Socket(connection)


def path_of(conversation: Any) -> str:
    return f"/ws/chat/{conversation}"


def token_of(client: httpx2.Client) -> str:
    """The token that `client` sends with every request; "" if it sends none."""
    return str(client.headers.get("Authorization", "")).removeprefix("Bearer ")
