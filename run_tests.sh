#!/bin/sh
# Makes a virtual environment in .venv from requirements-test.txt, and runs the checks and tests in it.
# It needs Python 3.10 or newer and a package index; $PYTHON chooses the interpreter. Arguments are passed to pytest.
set -eu
cd "$(dirname "$0")"
requirements=requirements-test.txt
. ./make_venv.sh
.venv/bin/python -m ruff check
.venv/bin/python -m ruff format --check
.venv/bin/python -m pytest -n auto --maxprocesses 8 --dist worksteal "$@"
.venv/bin/python -m mypy
