"""Which provider serves a chat model, embedded ones included."""

from __future__ import annotations

from dataclasses import dataclass

from llmbackend.config import Config, Provider
from llmbackend.errors import UnknownModel
from llmbackend.local.provider import LocalProvider
from llmbackend.local.weights import is_chat_model
from llmbackend.patterns import matches

LOCAL = Provider(name="local", base_url="http://local.invalid")
# A chat model without a model: it quotes from a knowledge base.
QUOTE = "local-quote"
# What an answer is left of the model's window where its length is not limited.
TOKENS_KEPT_FOR_ANSWER = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class UsableModel:
    """A model name, or a pattern of names, that this server can serve now."""

    model: str
    provider: str
    needs_api_key: bool


def local_provider(config: Config) -> LocalProvider:
    """The embedded provider of an installation; making one starts nothing."""
    return LocalProvider(config.local, run_dir=config.sqlite.path.parent)


def is_embedded(model: str, *, config: Config) -> bool:
    """Whether the embedded provider answers for `model`, installed or not."""
    return is_chat_model(model, chat_model_path=config.local.chat_model_path)


def provider_for(model: str, *, config: Config) -> Provider:
    """
    Who serves `model`: the embedded provider its own names, installed or not, else the
    first whose pattern matches; case does not matter. Raises UnknownModel.
    """
    if model == QUOTE or is_embedded(model, config=config):
        return LOCAL
    for provider in config.providers:
        if any(matches(model, pattern) for pattern in provider.chat_models):
            return provider
    raise UnknownModel(f"No configured provider serves the model “{model[:100]}”.")


def usable_provider_for(model: str, *, config: Config) -> Provider:
    """Like provider_for, but raises ModelNotInstalled, too, saying how to get it."""
    provider = provider_for(model, config=config)
    if provider is LOCAL and model != QUOTE:
        local_provider(config).check_model(model)
    return provider


def configured_name(model: str, *, config: Config) -> str:
    """
    What the config calls `model`: an embedded model's name, or the pattern it fits.

    There are as many of these as the config has; "other" is what it has no more.
    """
    if model == QUOTE or is_embedded(model, config=config):
        return model.casefold()
    patterns = (p for provider in config.providers for p in provider.chat_models)
    return next((p for p in patterns if matches(model, p)), "other")


def context_window(model: str, *, config: Config) -> int:
    """Tokens that prompt and answer may have together."""
    if is_embedded(model, config=config):
        return local_provider(config).context_window
    patterns = config.chat.context_windows.items()
    matching = (size for pattern, size in patterns if matches(model, pattern))
    return next(matching, config.chat.context_window)


def prompt_budget(model: str, *, max_tokens: int | None, config: Config) -> int:
    """
    Tokens a prompt may have: the model's window less what its answer may need.

    A quarter of the window at least: who lets answers be as long as that has a model
    with a larger one, which the config does not know, and nobody wants it to forget all
    that was said.
    """
    window = context_window(model, config=config)
    return max(window - (max_tokens or TOKENS_KEPT_FOR_ANSWER), window // 4)


def usable_models(*, config: Config) -> list[UsableModel]:
    """The embedded model, the configured patterns in their order, the quoting one."""
    local = local_provider(config)
    embedded = [
        UsableModel(model=name, provider=LOCAL.name, needs_api_key=False)
        for name in local.chat_models()
    ]
    configured = [
        UsableModel(
            model=pattern, provider=provider.name, needs_api_key=not provider.api_key
        )
        for provider in config.providers
        for pattern in provider.chat_models
    ]
    quoting = UsableModel(model=QUOTE, provider=LOCAL.name, needs_api_key=False)
    return [*embedded, *configured, quoting]
