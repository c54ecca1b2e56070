# Makes a virtual environment in .venv with the packages of the file $requirements, unless it exists. The other scripts
# source this file. It needs Python 3.10 or newer and a package index; $PYTHON chooses the interpreter.
PYTHON=${PYTHON:-python3}

stop() {
    echo "$(basename "$0"): $1" >&2
    exit 2
}
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    stop "$PYTHON is missing or older than Python 3.10: set PYTHON to a newer one"
made_of=$(cat requirements*.txt && "$PYTHON" --version && echo "$requirements")
if ! .venv/bin/python -c '' 2>/dev/null || [ "$made_of" != "$(cat .venv/made_of 2>/dev/null)" ]; then
    echo "$(basename "$0"): making a virtual environment in .venv (this takes some minutes, as torch is large)"
    "$PYTHON" -m venv .venv || stop "$PYTHON cannot make a virtual environment: is its venv module (python3-venv) installed?"
    .venv/bin/python -m pip install --quiet --requirement "$requirements" ||
        stop "the packages of $requirements could not be installed"
    echo "$made_of" >.venv/made_of
fi
