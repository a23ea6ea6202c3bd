"""How passwords are kept: bcrypt over SHA-256, which knows no 72-byte limit."""

from __future__ import annotations

from django.conf import settings
from django.contrib.auth.hashers import BCryptSHA256PasswordHasher


class PasswordHasher(BCryptSHA256PasswordHasher):
    """Django's bcrypt over SHA-256, at the cost that config.yaml names."""

    @property
    def rounds(self) -> int:  # type: ignore[override]
        return int(settings.CONFIG.accounts.bcrypt_cost)
