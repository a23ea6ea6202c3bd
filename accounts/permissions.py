"""Who may call a view's action."""

from __future__ import annotations

from typing import Any

from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from accounts.models import User


class InScope(BasePermission):
    """
    Those who are signed in; with an API key, if it has the scope of the action.

    A view names the scope of each of its actions in `scopes`.
    """

    def has_permission(self, request: Request, view: Any) -> bool:
        if not isinstance(request.user, User):
            return False
        # A method that the view does not take has no action of ours: it is a 405 next.
        if view.action not in {None, "metadata"}:
            request.user.grant.require(view.scopes[view.action])
        return True
