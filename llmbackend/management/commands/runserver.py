"""manage.py runserver: daphne, with the reloader, for development."""

from daphne.management.commands.runserver import Command

__all__ = ["Command"]
