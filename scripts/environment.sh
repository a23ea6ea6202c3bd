#!/bin/sh
# Make .venv hold what the requirement files name: scripts/environment.sh run|dev
# What is there already is left alone, at once and without a network.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
venv=.venv/bin/python

stop() {
    printf '%s\n' "$@" >&2
    exit 1
}

create() {
    command -v "$python" >/dev/null || stop \
        "$python is not installed. On Debian or Ubuntu:" \
        "    sudo apt install python3 python3-venv"
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || stop \
        "Python 3.11 or newer is needed; $python is $version. On Debian or Ubuntu:" \
        "    sudo apt install python3.11 python3.11-venv" \
        "and then: make PYTHON=python3.11 run"
    "$python" -c 'import ensurepip, venv' 2>/dev/null || stop \
        "$python cannot make virtual environments. On Debian or Ubuntu:" \
        "    sudo apt install python$version-venv"
    echo "Creating .venv with Python $version ..."
    "$python" -m venv --clear .venv
}

case ${1:-} in
    run) set -- requirements.txt requirements-local.txt ;;
    dev) set -- requirements.txt requirements-dev.txt requirements-local.txt ;;
    *) stop "usage: scripts/environment.sh run|dev" ;;
esac

# Not there, interrupted while it was made, or made with a Python that is gone.
"$venv" -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || create
"$venv" scripts/install_requirements.py "$@"
# Or every start would, for .2 s, where Python may not keep what it compiles.
"$venv" -m compileall -qq accounts chat conversations llmbackend rag || :
