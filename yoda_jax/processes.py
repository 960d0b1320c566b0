"""What the processes of a run do together: join, decide, wait for each other, and end together.

What lies on a disk may look different to each process. So one process looks, and tells the others:
two that part ways would wait for each other in different collectives for ever.
"""

import atexit
import contextlib
import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from absl import logging
from jax._src import distributed as coordination  # its store of keys has no public name
from jax.experimental import multihost_utils

from yoda_jax.errors import UserError

_Result = TypeVar("_Result")

_FAILED = "yoda_jax/failed"
SECONDS_BETWEEN_LOOKS = 1.0
_SECONDS_TO_BE_HEARD = 5.0


def join_processes(distributed: str, time_limit: float = 300.0) -> None:
    """Joins the processes of a run; must come before JAX is first used.

    "none" runs alone, "auto" takes what a TPU pod or a cluster's scheduler tells, and
    "HOST:PORT,COUNT,INDEX" names the first process's address, the number of processes and this
    one's index. Raises UserError for anything else, for an address that cannot be used, and where
    the others do not come within `time_limit` seconds.
    """
    if distributed == "none":
        return
    arguments, partner = (), "the other processes of the cluster"
    if distributed != "auto":
        host, port, count, index = _address(distributed)
        arguments = distributed.split(",")[0], count, index
        partner = f"process 0 at {host}:{port} and all others of {count} processes"
        if index == 0:
            partner = f"the other {count - 1} of {count} processes at port {port}"
    failures: list[Exception] = []

    def join() -> None:
        try:
            # Past its own limit JAX would abort; ours comes first.
            limits = {"initialization_timeout": int(time_limit) + 600}
            jax.distributed.initialize(*arguments, **limits, heartbeat_timeout_seconds=30)
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=join, daemon=True)
    thread.start()
    start = time.monotonic()
    while thread.is_alive() and (left := start + time_limit - time.monotonic()) > 0:
        thread.join(min(left, 10.0))
        if thread.is_alive():
            logging.info("waiting for %s, %.0f s so far", partner, time.monotonic() - start)
    if not thread.is_alive() and not failures:
        return
    reason = str(failures[0]).partition("\n")[0] if failures else ""
    if distributed == "auto" and "coordinator_address" in reason:
        raise UserError(
            "--distributed=auto must run on a TPU pod or under a scheduler that JAX knows (srun, "
            "mpirun, Kubernetes), found neither; use HOST:PORT,COUNT,INDEX, or none for one "
            "process."
        )
    leave_at_once(2)
    if failures:
        raise UserError(
            f"--distributed={distributed} could not join the processes: {reason}; choose another "
            "port, and start all processes anew."
        ) from failures[0]
    raise UserError(
        f"--distributed={distributed} has waited {time_limit:.0f} s for {partner}; start all "
        "processes with one address and COUNT, each with its INDEX from 0 on, and see the others' "
        "logs and the network between them."
    )


def _address(distributed: str) -> tuple[str, int, int, int]:
    """(host, port, COUNT, INDEX); tries the host, and the port where it is this process's."""
    found = re.fullmatch(r"\[?([^\[\],]+)\]?:(\d{1,5}),(\d{1,6}),(\d{1,6})", distributed)
    host, port, count, index = (found[1], *map(int, found.groups()[1:])) if found else ("", 0, 0, 0)
    if not (0 < port < 2**16 and index < count):
        raise UserError(
            "--distributed must be none, auto or HOST:PORT,COUNT,INDEX with INDEX from 0 to "
            f"COUNT - 1, found {distributed!r}."
        )
    try:
        socket.getaddrinfo(host, port)
        if index == 0 and "JAX_COORDINATOR_BIND_ADDRESS" not in os.environ:
            # JAX would end in a segmentation fault on a port that is taken.
            both = socket.has_dualstack_ipv6()
            family = socket.AF_INET6 if both else socket.AF_INET
            socket.create_server(("", port), family=family, dualstack_ipv6=both).close()
    except socket.gaierror as error:
        raise UserError(
            f"--distributed={distributed} must name a host that this machine knows, found that "
            f"{host} has no address ({error.strerror}); give its IP address."
        ) from error
    except OSError as error:
        raise UserError(
            f"--distributed={distributed} must name a free port of this machine, found {port} is "
            f"not ({os.strerror(error.errno)}); choose another, the same for all processes."
        ) from error
    return host, port, count, index


def is_first() -> bool:
    """Whether this is the process that speaks and decides for all."""
    return jax.process_index() == 0


def together(step: Callable[[], _Result]) -> _Result:
    """Runs a step in every process and waits for all; where one fails, all end.

    Raises the step's own error, and in the other processes a UserError that names the one that
    failed.
    """
    failure = result = None
    try:
        result = step()
    except Exception as error:  # raised again below, once the others know
        failure = error
    if jax.process_count() > 1:
        failed = multihost_utils.process_allgather(np.array(failure is not None))
        if failure is None and failed.any():
            raise UserError(
                f"Process {int(failed.argmax())} could not do its part; its own message says why."
            )
    if failure is not None:
        raise failure
    return result


def decided(decide: Callable[[], Any]) -> Any:
    """What the first process decides, in every process; `decide` runs in that one alone.

    The result is any value that JSON knows, as JSON gives it back: lists for tuples. Where it
    fails, all end as with `together`.
    """
    text = together(lambda: json.dumps(decide()) if is_first() else "")
    if jax.process_count() > 1:
        # Broadcasting knows arrays of one shape only: the length goes ahead of the bytes.
        data = np.frombuffer(text.encode(), np.uint8)
        size = int(multihost_utils.broadcast_one_to_all(np.int32(data.size)))
        padded = np.resize(data, size) if is_first() else np.zeros(size, np.uint8)
        text = np.asarray(multihost_utils.broadcast_one_to_all(padded)).tobytes().decode()
    return json.loads(text)


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """Where one process fails in the block, the others end within seconds, with a sentence each.

    They may wait for it in a collective, which no exception reaches. So each looks from a thread
    whether another one has failed. One that dies without a word ends them by its heart-beat.
    """
    if joined() is None:
        yield
        return
    index, _ = joined()
    speaks, done = threading.Lock(), threading.Event()

    def look() -> None:
        while not done.wait(SECONDS_BETWEEN_LOOKS):
            message = said(_FAILED)
            if message and speaks.acquire(blocking=False):
                print(f"yoda_jax: {message}", file=sys.stderr, flush=True)
                time.sleep(patience())
                os._exit(2)

    threading.Thread(target=look, daemon=True).start()
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        speaks.acquire()
        text = " ".join((str(error) or type(error).__name__).split())
        first = said(_FAILED)
        tell(_FAILED, f"Process {index} has failed: {text[:1000]}")
        lost = "Gloo" in text  # the collectives of CPUs, which see a closed connection
        leave_at_once(2 if lost or isinstance(error, UserError | OSError) else 1)
        if not lost:
            raise
        raise UserError(
            first
            or f"Another process has ended ({text[:200]}); its own log says why: start all "
            "processes again, and the run goes on from its last checkpoint."
        ) from error
    finally:
        done.set()


def joined() -> tuple[int, int] | None:
    """(index, count) of the processes that have joined, None for one that runs alone.

    Known also where JAX has not started its devices, and in threads.
    """
    state = coordination.global_state
    return None if state.client is None else (state.process_id, state.num_processes)


def tell(key: str, text: str = "") -> None:
    """Tells the other processes something under a key; the first that does so is heard."""
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # another one was first
        coordination.global_state.client.key_value_set(key, text)


def said(key: str) -> str | None:
    """What a process has told under a key, None where none has yet."""
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # how it says that nothing is there
        return coordination.global_state.client.key_value_try_get(key)
    return None


def awaited(key: str, seconds: float) -> str:
    """What a process tells under a key, which is waited for; raises JaxRuntimeError after that."""
    return coordination.global_state.client.blocking_key_value_get(key, int(1000 * seconds))


def patience() -> float:
    """How many seconds this process stays so that the others hear what was told."""
    return _SECONDS_TO_BE_HEARD if joined() and joined()[0] == 0 and joined()[1] > 1 else 0.0


def leave_at_once(status: int) -> None:
    """Lets this process, once it ends, wait for no other but to be heard: JAX would, for minutes.

    Process 0 keeps what was told, so it leaves last.
    """

    def leave() -> None:
        time.sleep(patience())
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)

    atexit.register(leave)
