#!/usr/bin/env bash
# Lints and runs the test suite; arguments go to pytest. Safe to run again.
set -euo pipefail
source "$(dirname "$0")/setup.sh"

.venv/bin/ruff check .
exec .venv/bin/python -m pytest "$@"
