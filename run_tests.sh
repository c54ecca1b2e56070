#!/bin/sh
# Make a virtual environment in .venv from the requirements files and run the tests in it.
# Needs Python 3.10 or newer and a package index; $PYTHON chooses the interpreter. Arguments go to pytest.
set -eu
cd "$(dirname "$0")"
PYTHON=${PYTHON:-python3}

stop() {
    echo "run_tests.sh: $1" >&2
    exit 2
}
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    stop "$PYTHON is missing or older than Python 3.10: set PYTHON to a newer one"
"$PYTHON" -m venv .venv || stop "$PYTHON cannot make a virtual environment: is its venv module installed (python3-venv)?"
.venv/bin/python -m pip install --quiet --requirement requirements-test.txt ||
    stop "the packages of requirements-test.txt could not be installed"
.venv/bin/python -m ruff check
.venv/bin/python -m ruff format --check
.venv/bin/python -m pytest -n auto --maxprocesses 8 "$@"
