#!/usr/bin/env bash
# Lints and runs the test suite; arguments go to pytest. Safe to run again.
set -euo pipefail
source "$(dirname "$0")/setup.sh"

if ! cmp -s scripts/requirements-test.txt .venv/installed-test.txt; then
    echo "Installing the packages of scripts/requirements-test.txt into .venv (once)."
    .venv/bin/python -m pip install -qq --disable-pip-version-check -r scripts/requirements-test.txt -c requirements.txt
    cp scripts/requirements-test.txt .venv/installed-test.txt
fi

.venv/bin/ruff check .
exec .venv/bin/python -m pytest "$@"
