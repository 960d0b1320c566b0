#!/usr/bin/env bash
# A job on a slice of TPUs, from create to delete; each command may be given again.
set -euo pipefail
usage() {
    cat <<'TEXT'
bash launch/tpu_pod.sh [--dry-run] COMMAND [ARGUMENTS of yoda_jax.main]

  create [ARGUMENTS]  asks for the slice; with arguments it starts this job by itself whenever it
                      (re)starts, from the code in $CODE
  setup               copies this checkout's last commit to all machines and installs it
  run ARGUMENTS       starts a job on all machines
  status              of the slice, and whether the job runs
  logs                the end of the job's output on the first machine
  stop                lets the job save and end
  delete              gives the slice back

Settings, by environment variables (here with what they are by default):
  TPU_NAME=yoda  ZONE=us-central1-a  ACCELERATOR=v5litepod-16  RUNTIME=v2-alpha-tpuv5-lite
  PROVISION=on-demand (or spot, reserved)  VALID_FOR=6h (of the request)
  CODE=gs://BUCKET/yoda_jax.tar.gz (where `create ARGUMENTS` puts the code)
TEXT
}
name=${TPU_NAME:-yoda} zone=${ZONE:-us-central1-a} accelerator=${ACCELERATOR:-v5litepod-16}
runtime=${RUNTIME:-v2-alpha-tpuv5-lite} provision=${PROVISION:-on-demand}
dry=
if [ "${1:-}" = --dry-run ]; then
    dry=1
    shift
fi
command=${1:-}
[ $# -eq 0 ] || shift
cd "$(dirname "$0")/.."

show() { # a command, quoted as one would type it
    printf '%q ' "$@"
    echo
}
call() { # runs a command, or shows it
    if [ "$dry" ]; then show "$@"; else "$@"; fi
}
on_all() { call gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$1"; }
on_first() { call gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=0 --command="$1"; }
exists() {
    [ -z "$dry" ] &&
        gcloud compute tpus queued-resources describe "$name" --zone="$zone" >/dev/null 2>&1
}
job="{ kill -0 \$(cat yoda_jax/job.pid); } 2> /dev/null" # whether it runs
archive() { git archive --format=tar.gz --output="$1" HEAD; }

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
case $command in
create)
    if exists; then
        echo "$name is there already; see: bash launch/tpu_pod.sh status"
        exit 0
    fi
    options=(--node-id="$name" --zone="$zone" --accelerator-type="$accelerator")
    options+=(--runtime-version="$runtime" --valid-until-duration="${VALID_FOR:-6h}")
    case $provision in
    on-demand) ;;
    spot | reserved) options+=("--$provision") ;;
    *)
        echo "PROVISION must be on-demand, spot or reserved, found $provision" >&2
        exit 2
        ;;
    esac
    if [ $# -gt 0 ]; then
        : "${CODE:?must be gs://BUCKET/yoda_jax.tar.gz, where the machines fetch the code}"
        archive "$folder/yoda_jax.tar.gz"
        call gcloud storage cp "$folder/yoda_jax.tar.gz" "$CODE"
        {
            echo '#!/usr/bin/env bash'
            # shellcheck disable=SC2016 # HOME of that machine
            echo 'mkdir -p "${HOME:=/root}/yoda_jax" && cd "$HOME/yoda_jax" && export HOME'
            echo "gcloud storage cat $(printf %q "$CODE") | tar xz"
            show bash launch/tpu_worker.sh "$@"
        } >"$folder/startup.sh"
        [ -z "$dry" ] || cat "$folder/startup.sh"
        options+=(--metadata-from-file=startup-script="$folder/startup.sh")
    fi
    call gcloud compute tpus queued-resources create "$name" "${options[@]}"
    ;;
setup)
    archive "$folder/yoda_jax.tar.gz"
    call gcloud compute tpus tpu-vm scp "$folder/yoda_jax.tar.gz" "$name:" \
        --zone="$zone" --worker=all
    on_all "mkdir -p yoda_jax && tar xzf yoda_jax.tar.gz -C yoda_jax && bash yoda_jax/launch/tpu_worker.sh"
    ;;
run)
    [ $# -gt 0 ] || { echo "run needs the arguments of yoda_jax.main" >&2; exit 2; }
    on_all "setsid nohup bash yoda_jax/launch/tpu_worker.sh $(show "$@")< /dev/null > /dev/null 2>&1 &"
    ;;
status)
    call gcloud compute tpus queued-resources describe "$name" --zone="$zone" \
        --format="value(state.state)"
    on_all "$job && echo running || echo no job"
    ;;
logs)
    on_first "tail -n ${LINES_SHOWN:-50} yoda_jax/job.log 2> /dev/null || echo no output yet"
    ;;
stop)
    on_all "$job && kill -TERM \$(cat yoda_jax/job.pid) || echo no job"
    ;;
delete)
    if [ -z "$dry" ] && ! exists; then
        echo "$name is not there"
        exit 0
    fi
    call gcloud compute tpus queued-resources delete "$name" --zone="$zone" --force --quiet
    ;;
*)
    usage
    [ -z "$command" ] || exit 2
    ;;
esac
