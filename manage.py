#!/usr/bin/env python
"""llmbackend's command line: `manage.py help` lists the commands."""

import os
import sys


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "llmbackend.settings")
    from django.core.management import execute_from_command_line

    from llmbackend.config_reading import ConfigError

    try:
        execute_from_command_line(sys.argv)
    except ConfigError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
