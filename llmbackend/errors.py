"""
Every error the project raises on purpose.

* LLMBackendError
  x Invalid
    - UnknownModel
    - ModelNotInstalled
    - UsernameTaken
    - BadHost
    - UnknownEmbeddingModel
    - EmptyDocument
    - UnreadableDocument
    - EncryptedDocument
    - NoText
    - UnsupportedType
    - UnknownEncoding
  x Unauthorized
    - InvalidCredentials
  x Forbidden
    - RegistrationClosed
    - WrongPassword
  x NotFound
  x MethodNotAllowed
  x NotAcceptable
  x UnsupportedMediaType
  x Conflict
    - AnswerInProgress
    - StoredKeyUnreadable
    - AlreadyProcessing
    - DimensionChanged
    - NotActive
    - NothingToContinue
  x IdempotencyMismatch
  x TooLarge
    - QuotaExceeded
  x RateLimited
    - LimitReached
  x Unavailable
    - ServerRestarting
    - DatabaseUnavailable
  x Internal
  x ProviderError
    - ProviderAuth
    - ProviderProtocol
    - ProviderBusy
    - ProviderTimeout
      + ProviderStalled
    - EmptyAnswer
  x AnswerCut
    - Truncated
    - AnswerTooLong
    - Interrupted

A class's docstring is the sentence a client is shown unless the raiser says more; its
`code` is the class's name in snake case. The HTTP status of each is decided in
`llmbackend.http`, nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar


class LLMBackendError(Exception):
    """Something went wrong."""

    code: ClassVar[str] = "error"
    retryable: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        cls.code = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()

    def __init__(
        self,
        message: str = "",
        *,
        retry_after: int | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        """
        `retry_after`: whole seconds after which trying again makes sense.

        `facts` are told beside the sentence, for programs.
        """
        super().__init__(message or self.__class__.__doc__)
        self.retry_after = retry_after
        self.facts = facts or {}


class Invalid(LLMBackendError):
    """The request is not valid."""


class UnknownModel(Invalid):
    """No configured provider serves this model."""


class ModelNotInstalled(Invalid):
    """This embedded model is not installed here."""


class UsernameTaken(Invalid):
    """This username is already taken."""


class BadHost(Invalid):
    """This server does not answer for that host name."""


class UnknownEmbeddingModel(Invalid):
    """This embedding model cannot be used here."""


class EmptyDocument(Invalid):
    """The document is empty."""


class UnreadableDocument(Invalid):
    """The document is damaged or too complex to read."""


class EncryptedDocument(Invalid):
    """The document is protected by a password."""


class NoText(Invalid):
    """The document holds no text, only images."""


class UnsupportedType(Invalid):
    """Only .txt, .md, .docx and .pdf files can be read, under their own extension."""


class UnknownEncoding(Invalid):
    """The text's encoding is unclear; name it in the field encoding."""


class Unauthorized(LLMBackendError):
    """A valid bearer token is required."""


class InvalidCredentials(Unauthorized):
    """Invalid username or password."""


class Forbidden(LLMBackendError):
    """You are not allowed to do this."""


class RegistrationClosed(Forbidden):
    """Registration is closed on this server."""


class WrongPassword(Forbidden):
    """The password is wrong."""


class NotFound(LLMBackendError):
    """There is nothing here."""


class MethodNotAllowed(LLMBackendError):
    """This address does not take that method."""


class NotAcceptable(LLMBackendError):
    """This address answers in JSON only."""


class UnsupportedMediaType(LLMBackendError):
    """The body's content type is not one this address takes."""


class Conflict(LLMBackendError):
    """The request does not fit the present state."""


class AnswerInProgress(Conflict):
    """An answer is being written in this conversation; wait for its end or stop it."""


class StoredKeyUnreadable(Conflict):
    """The key stored with this conversation cannot be used here; give it again."""


class AlreadyProcessing(Conflict):
    """The same document is being processed; try again when that has ended."""

    retryable = True


class DimensionChanged(Conflict):
    """The embedding model now gives vectors of another size than this base holds."""


class NotActive(Conflict):
    """This message is not on the conversation's active branch; choose it first."""


class NothingToContinue(Conflict):
    """This answer is complete, or has no text to go on from."""


class IdempotencyMismatch(LLMBackendError):
    """This Idempotency-Key was already used for another request."""


class TooLarge(LLMBackendError):
    """The request body is too large."""


class QuotaExceeded(TooLarge):
    """This is more than your account may have."""


class RateLimited(LLMBackendError):
    """Too many requests; try again later."""

    retryable = True


class LimitReached(RateLimited):
    """A limit of your account is reached; try again later."""


class Unavailable(LLMBackendError):
    """The server cannot take this request now; try again shortly."""

    retryable = True


class ServerRestarting(Unavailable):
    """The server is restarting; try again shortly."""


class DatabaseUnavailable(Unavailable):
    """The database cannot be reached now; try again shortly."""


class Internal(LLMBackendError):
    """The server made a mistake; it has been logged."""


class ProviderError(LLMBackendError):
    """The model's provider failed."""

    retryable = True


class ProviderAuth(ProviderError):
    """The model's provider refused the API key."""

    retryable = False


class ProviderProtocol(ProviderError):
    """The model's provider answered in a form that could not be read."""


class ProviderBusy(ProviderError):
    """The model's provider is busy; try again shortly."""


class ProviderTimeout(ProviderError):
    """The model's provider did not answer in time."""


class ProviderStalled(ProviderTimeout):
    """The model's provider fell silent before the answer was complete."""


class EmptyAnswer(ProviderError):
    """The model answered with no text."""


class AnswerCut(LLMBackendError):
    """The answer ended early; what had arrived is kept."""

    retryable = True


class Truncated(AnswerCut):
    """The provider ended before the answer was complete; what had arrived is kept."""


class AnswerTooLong(AnswerCut):
    """The answer passed the size limit and was cut; what had arrived is kept."""

    retryable = False


class Interrupted(AnswerCut):
    """The answer was interrupted; what had arrived is kept."""


def error_of(code: str) -> LLMBackendError:
    """
    The error that `code` stands for, with its usual sentence; Internal if none does.

    >>> type(error_of("truncated")).__name__
    'Truncated'
    """
    kinds = [LLMBackendError]
    for kind in kinds:
        if kind.code == code:
            return kind()
        kinds += kind.__subclasses__()
    return Internal()
