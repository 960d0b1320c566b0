"""A stand-in for `gcloud`: slices of TPUs whose machines are folders, buckets that are folders too.

What is run on a machine runs here with that machine's HOME, and the variables by which JAX finds
the processes of a slice, on CPUs. Its first argument is the folder where all lies.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

WORKERS = 2


def environment(folder: Path, worker: int) -> dict[str, str]:
    """The variables of a machine."""
    return {
        **os.environ,
        "HOME": str(folder / f"worker-{worker}"),
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "1",
        "JAX_FORCE_TPU_INIT": "1",
        "TPU_WORKER_ID": str(worker),
        "TPU_WORKER_HOSTNAMES": ",".join(["localhost"] * WORKERS),
        "MEGASCALE_COORDINATOR_ADDRESS": "",
        "MEGASCALE_NUM_SLICES": "",
        "MEGASCALE_SLICE_ID": "",
        "JAX_COORDINATOR_BIND_ADDRESS": "127.0.0.1:8482",  # the port that JAX takes on a slice
    }


def on_worker(folder: Path, worker: int, *command: str, **options: object) -> subprocess.Popen:
    """Starts a command on a machine, in its HOME."""
    variables = environment(folder, worker)
    return subprocess.Popen(command, cwd=variables["HOME"], env=variables, **options)


def local(folder: Path, url: str) -> Path:
    """Where an object of a bucket lies."""
    return folder / "buckets" / url.removeprefix("gs://").replace("/", "_")


def main() -> int:
    folder, arguments = Path(sys.argv[1]), sys.argv[2:]
    words = [a for a in arguments if not a.startswith("--")]
    options = dict(a.removeprefix("--").partition("=")[::2] for a in arguments if a[:2] == "--")
    slice_ = folder / "slice"
    match words:
        case ["storage", "cp", source, url]:
            shutil.copy(source, local(folder, url))
        case ["storage", "cat", url]:
            sys.stdout.buffer.write(local(folder, url).read_bytes())
        case ["compute", "tpus", "queued-resources", "create", name]:
            if slice_.exists():
                return 1
            slice_.write_text(name)
            script = options.get("metadata-from-file", "").removeprefix("startup-script=")
            if script:
                (folder / "startup.sh").write_text(Path(script).read_text())
                for worker in range(WORKERS):
                    with (folder / f"startup-{worker}.log").open("a") as log:
                        script = ["bash", str(folder / "startup.sh")]
                        started = on_worker(
                            folder, worker, *script, stdout=log, stderr=log, start_new_session=True
                        )
                    with (folder / "started").open("a") as pids:
                        pids.write(f"{started.pid}\n")
        case ["compute", "tpus", "queued-resources", "describe", name]:
            if not slice_.exists() or slice_.read_text() != name:
                return 1
            print("ACTIVE")
        case ["compute", "tpus", "queued-resources", "delete", name]:
            files = [folder / f"worker-{w}/yoda_jax/job.pid" for w in range(WORKERS)]
            files.append(folder / "started")
            for pid in " ".join(f.read_text() for f in files if f.exists()).split():
                with contextlib.suppress(ProcessLookupError):  # it has ended by itself
                    os.killpg(os.getpgid(int(pid)), signal.SIGKILL)
            slice_.unlink()
        case ["compute", "tpus", "tpu-vm", "scp", source, _]:
            for worker in range(WORKERS):
                shutil.copy(source, folder / f"worker-{worker}")
        case ["compute", "tpus", "tpu-vm", "ssh", _]:
            chosen = range(WORKERS) if options["worker"] == "all" else [int(options["worker"])]
            started = [on_worker(folder, w, "bash", "-c", options["command"]) for w in chosen]
            return max(process.wait() for process in started)
        case _:
            print(f"unknown: {arguments}", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
