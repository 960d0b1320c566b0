# shellcheck shell=bash
# Sourced by the other scripts: makes .venv beside README.md and installs the project into it,
# with the exact versions of launch/constraints.txt. PYTHON names another Python 3.11.

install() { # install EXTRAS, for example [test] or nothing
    local python=${PYTHON:-python3.11} wanted
    if [ ! -x .venv/bin/python ]; then
        if ! command -v "$python" >/dev/null; then
            echo "$python was not found; install Python 3.11, or set PYTHON to it." >&2
            exit 2
        fi
        echo "making .venv"
        "$python" -m venv .venv
    fi
    wanted=$(cat setup.py launch/constraints.txt | cksum)
    if [ "$(cat ".venv/installed$1" 2>/dev/null)" != "$wanted" ]; then
        echo "installing yoda_jax$1 and what it needs into .venv (about 800 MB to download)"
        .venv/bin/python -m pip install --quiet --disable-pip-version-check \
            -c launch/constraints.txt -e ".$1"
        echo "$wanted" >".venv/installed$1"
    fi
}
