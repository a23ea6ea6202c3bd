"""An administrator's own password, changed in the admin: counted and noted."""

from __future__ import annotations

import math
from typing import Any

from django.contrib.admin.forms import AdminPasswordChangeForm
from django.contrib.auth.views import PasswordChangeView
from django.core.exceptions import ValidationError
from django.db import transaction
from django.urls import reverse_lazy
from django.utils.translation import ngettext

from accounts import audit
from accounts.audit import Action
from accounts.credentials import confirm
from llmbackend.errors import RateLimited, WrongPassword
from llmbackend.http import address_of


def too_many(error: RateLimited) -> ValidationError:
    """What a form says after too many failures."""
    minutes = math.ceil((error.retry_after or 0) / 60)
    message = ngettext(
        "Too many failed log-ins; try again in %(minutes)d minute.",
        "Too many failed log-ins; try again in %(minutes)d minutes.",
        minutes,
    )
    return ValidationError(message % {"minutes": minutes})


class OwnPasswordForm(AdminPasswordChangeForm):
    """Django's, whose failures count like those of a log-in."""

    def __init__(self, *args: Any, address: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.address = address

    def clean_old_password(self) -> str:
        given: str = self.cleaned_data["old_password"]
        try:
            confirm(self.user, password=given, address=self.address)
        except WrongPassword:
            wrong = "password_incorrect"
            raise ValidationError(self.error_messages[wrong], code=wrong) from None
        except RateLimited as exc:
            raise too_many(exc) from exc
        return given

    @transaction.atomic
    def save(self, commit: bool = True) -> Any:
        user = super().save(commit)
        audit.record(Action.PASSWORD_SET, by=user.pk, on=user)
        return user


class OwnPasswordView(PasswordChangeView):
    form_class = OwnPasswordForm
    success_url = reverse_lazy("admin:password_change_done")

    def get_form_kwargs(self) -> dict[str, Any]:
        return {**super().get_form_kwargs(), "address": address_of(self.request)}
