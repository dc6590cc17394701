#!/usr/bin/env bash
# Lints and runs the test suite; arguments go to pytest. Safe to run again.
set -euo pipefail
source "$(dirname "$0")/setup.sh"

if ! cmp -s scripts/requirements-test.txt .venv/installed-test.txt; then
    echo "Installing the packages of scripts/requirements-test.txt into .venv (once)."
    .venv/bin/python -m pip install -qq --disable-pip-version-check -r scripts/requirements-test.txt -c requirements.txt
    cp scripts/requirements-test.txt .venv/installed-test.txt
fi

# The tests of the report want a browser. As root on Debian, which is what CI is, it is installed; else they are skipped.
if ! command -v chromium-headless-shell chromium chromium-browser google-chrome >/dev/null &&
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null && [ ! -f .venv/browser-tried ]; then
    touch .venv/browser-tried
    echo "Installing the Debian package chromium-headless-shell (once)."
    { apt-get -qq update && apt-get -qq install -y --no-install-recommends chromium-headless-shell fonts-dejavu-core; } \
        >/dev/null 2>&1 || echo "That failed: the tests that need a browser are skipped."
fi

.venv/bin/ruff check .
# Many tests wait for processes: two files at a time. With `-n 0` one after the other.
exec .venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
