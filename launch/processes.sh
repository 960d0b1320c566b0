#!/usr/bin/env bash
# Runs a job as COUNT processes of this machine, which share it out like machines of a cluster:
#     bash launch/processes.sh COUNT --config=configs/demo.py ...
# The output of process 1 and on goes to process-1.log ... in the folder LOGS, if it is set. SIGTERM
# is passed on. The status is the first that is not 0.
set -euo pipefail
usage="usage: bash launch/processes.sh COUNT ARGUMENTS of yoda_jax.main"
count=${1:?$usage}
[[ $count =~ ^[1-9][0-9]*$ ]] || { echo "$usage; COUNT is a whole number, found $count" >&2; exit 2; }
shift
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
port=${PORT:-$("$python" -c 'import socket; s = socket.create_server(("", 0)); print(s.getsockname()[1])')}
cores=$(($(nproc) / count))
export JAX_NUM_CPU_DEVICES=${JAX_NUM_CPU_DEVICES:-$((cores > 0 ? cores : 1))}
processes=()
for ((index = 0; index < count; index++)); do
    log=/dev/null
    [ -z "${LOGS:-}" ] || log=$LOGS/process-$index.log
    [ "$index" -gt 0 ] || log=/dev/fd/1
    "$python" -m yoda_jax.main --distributed="127.0.0.1:$port,$count,$index" "$@" >"$log" 2>&1 &
    processes+=($!)
done
trap 'kill -TERM "${processes[@]}" 2>/dev/null' TERM INT
status=0
for process in "${processes[@]}"; do
    ended=0
    wait "$process" || ended=$?
    while kill -0 "$process" 2>/dev/null; do # a signal has ended `wait`, not the process
        ended=0
        wait "$process" || ended=$?
    done
    [ "$status" -ne 0 ] || status=$ended
done
exit "$status"
