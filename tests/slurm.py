"""A SLURM cluster of two nodes on this machine, of its real daemons."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from command_line import free_port

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol")
_CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
KillWait=30
SchedulerParameters=sched_interval=2,bf_interval=2
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={n1} CPUs=1 RealMemory=1000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={n2} CPUs=1 RealMemory=1000
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=main Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=60
PartitionName=high Nodes=ALL PriorityTier=10
"""


class Cluster:
    """The cluster's commands."""

    def __init__(self, folder: Path) -> None:
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}

    def ask(self, *command: str) -> str:
        """The output of a command of SLURM."""
        result = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert result.returncode == 0, f"{command}: {result.stderr}"
        return result.stdout

    def submit(self, *command: str, **environment: str) -> str:
        """Submits a script; returns the job's number."""
        result = subprocess.run(
            ["sbatch", "--parsable", *command],
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout.strip()

    def state(self, job: str) -> dict[str, str]:
        """What scontrol shows of a job."""
        text = self.ask("scontrol", "--oneliner", "show", "job", job)
        return dict(field.split("=", 1) for field in text.split() if "=" in field)

    def wait(self, job: str, *states: str, seconds: float = 300) -> dict[str, str]:
        """Waits until a job is in one of the states; a job to be begun again begins soon.

        A job that is queued again has failed for a moment, so FAILED has to last. Begun again in
        the second in which it was revoked, it would be killed as revoked.
        """
        deadline, failed, queued = time.monotonic() + seconds, 0, 0
        while True:
            found = self.state(job)
            failed = failed + 1 if found["JobState"] == "FAILED" else 0
            if found["JobState"] in states and failed in (0, 10):
                return found
            assert time.monotonic() < deadline, found
            again = found["JobState"] == "PENDING" and found["Restarts"] != "0"
            queued = queued + 1 if again else 0
            if queued == 6:
                self.ask("scontrol", "update", f"JobId={job}", "StartTime=now")
            time.sleep(0.5)


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """A cluster whose files lie in a folder of a short name."""
    ports = {name: free_port() for name in ("controller", "n1", "n2")}
    text = _CONFIGURATION.format(host=socket.gethostname(), folder=folder, **ports)
    for name in ("state", "spool-n1", "spool-n2"):
        (folder / name).mkdir()
    (folder / "slurm.conf").write_text(text)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    made = Cluster(folder)
    munge = ["munged", "--foreground", "--force", f"--key-file={key}"]
    munge += [f"--{part}-file={folder}/munge.{part}" for part in ("pid", "log", "seed")]
    munge += [f"--socket={folder}/munge.socket"]
    commands = [
        munge,
        ["slurmctld", "-D"],
        ["slurmd", "-D", "-N", "n1"],
        ["slurmd", "-D", "-N", "n2"],
    ]
    daemons = []
    try:
        for command in commands:
            with (folder / "daemons.log").open("a") as log:
                daemons.append(
                    subprocess.Popen(command, env=made.environment, stdout=log, stderr=log)
                )
            time.sleep(1)
        deadline = time.monotonic() + 60
        while made.ask("sinfo", "--noheader", "--format=%T %D").strip() != "idle 2":
            assert time.monotonic() < deadline, (folder / "daemons.log").read_text()
            time.sleep(0.5)
        yield made
    finally:
        for daemon in reversed(daemons):
            daemon.send_signal(signal.SIGTERM)
        for daemon in daemons:
            daemon.wait(timeout=30)


def missing() -> str:
    """The programs of SLURM that are not on this machine."""
    return " ".join(name for name in PROGRAMS if shutil.which(name) is None)
