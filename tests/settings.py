"""The project's settings on a config, a database and keys of this test run's own."""

import os
import sys
import tempfile
from pathlib import Path

import yaml

from tests import postgresql_server
from tests.ports import free_port

CONFIG_YAML = """
server:
  shutdown_grace: 5
sqlite:
  path: test_source.db
accounts:
  bcrypt_cost: 4
chat:
  connect_timeout: 2
"""

# A directory an earlier import made is a directory of this very process.
directory = Path(tempfile.mkdtemp(prefix="llmbackend-tests-"))
config = yaml.safe_load(CONFIG_YAML)
if postgresql_server.is_the_runs():
    # conftest.py starts it there.
    config["database"] = {"url": postgresql_server.url_of("tests", port=free_port())}
    config["jwt"] = {"secret": postgresql_server.JWT_SECRET}
(directory / "config.yaml").write_text(yaml.safe_dump(config))
# Hundreds of processes are started, which would each compile all sources anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# Two BLAS threads on busy cores spin against each other; must precede numpy.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ["LLMBACKEND_CONFIG"] = str(directory / "config.yaml")

from llmbackend.settings import *  # noqa: E402, F403

if not postgresql_server.is_the_runs():
    # A power cut during a test loses nothing that matters.
    DATABASES["default"]["OPTIONS"] = {  # noqa: F405
        **DATABASES["default"]["OPTIONS"],  # noqa: F405
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;",
    }
