"""The providers that a serving process is connected to, the embedded one included."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from llmbackend.chat_models import LOCAL, local_provider
from llmbackend.config import Config, Provider
from llmbackend.crypto import origin_of, unseal
from llmbackend.providers import Clients, Connection


class Providers:
    """One process's connections; belongs to one event loop."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._clients = Clients()
        self._local = local_provider(config)

    async def start(self) -> None:
        """Make what the first answer would wait for."""
        for provider in self._config.providers:
            self._clients.client_for(provider)
        embedded = self._local.chat_models() or self._local.embeds()
        if self._config.local.preload and embedded:
            await self._local.endpoint()

    async def connect(self, name: str) -> Connection:
        """The connection to provider `name`, with the configured key."""
        if name == LOCAL.name:
            endpoint = await self._local.endpoint()
            embedded = Provider(name=name, base_url=endpoint.base_url)
            client = self._clients.client_for(embedded)
            return Connection(client=client, api_key=endpoint.api_key)
        provider = self._named(name)
        client = self._clients.client_for(provider)
        return Connection(client=client, api_key=provider.api_key)

    async def connect_with(
        self, name: str, *, sealed_key: str, owner_id: int, keys: Sequence[str]
    ) -> Connection:
        """
        The same with a conversation's own key, where one is stored.

        Raises StoredKeyUnreadable for a key that was given for another origin.
        """
        connection = await self.connect(name)
        if not sealed_key or name == LOCAL.name:
            return connection
        origin = origin_of(self._named(name).base_url)
        own = unseal(sealed_key, keys=keys, owner_id=owner_id, origin=origin)
        return replace(connection, api_key=own)

    def _named(self, name: str) -> Provider:
        return next(p for p in self._config.providers if p.name == name)

    async def aclose(self) -> None:
        """Close the connections and end the embedded provider."""
        await self._clients.aclose()
        await self._local.aclose()
