# Sourced by the other scripts: makes .venv with the pinned requirements, once, and again when they change.
# PYTHON names the interpreter to make it with; default is the first of python3.13 … python3.11 and python3.
cd "$(dirname "${BASH_SOURCE[0]}")/.."

find_python() {
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "No Python 3.11 or newer found: install it, or name it with PYTHON=/path/to/python." >&2
    return 1
}

make_venv() {
    if [ -f .venv/installed.txt ] && cmp -s requirements.txt .venv/installed.txt; then
        return
    fi
    local python
    python=$(find_python)
    echo "Installing the packages of requirements.txt into .venv (once)."
    if [ ! -x .venv/bin/python ] && ! "$python" -m venv .venv; then
        rm -rf .venv
        echo "Can't make a virtual environment: install the venv module (Debian: apt install python3-venv)." >&2
        return 1
    fi
    .venv/bin/python -m pip install -qq --disable-pip-version-check -r requirements.txt
    cp requirements.txt .venv/installed.txt
}

make_venv
