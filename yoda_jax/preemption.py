"""Stopping in order: a signal to one process saves what all of them have not saved yet.

The main thread may be in a compilation or wait for other processes, so a thread of its own hears
the signal. Outside of training nothing would be lost, and it ends the process at once. In training
the processes agree on a step: the first that none of them has passed.
"""

import contextlib
import dataclasses
import json
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import NoReturn

from yoda_jax.processes import (
    SECONDS_BETWEEN_LOOKS,
    awaited,
    joined,
    leave_at_once,
    patience,
    said,
    tell,
)

STATUS = 75  # EX_TEMPFAIL of sysexits.h: to be tried again later
_STOP, _AT, _SAVED = "yoda_jax/stop", "yoda_jax/at/", "yoda_jax/saved/"
_LONGEST_SAVE = 600.0  # seconds
# Of schedulers, of a terminal's keys, and of a terminal that is closed.
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Stopped(Exception):
    """A stop within a step of the training, which is to be saved."""


@dataclasses.dataclass(frozen=True)
class _Position:
    """Where a process is: how many trainings it has begun, whether it is in one, steps passed."""

    trainings: int = 0
    unsaved: bool = False
    steps: int = 0


class _Stop:
    """A stop of this process, not yet asked for; `hears` tells when a signal has come."""

    def __init__(self, hears: Callable[[float | None], bool]) -> None:
        self._hears, self._processes = hears, joined()
        self._lock, self._agreed = threading.Lock(), threading.Event()
        self._asked, self._last_step, self.over = False, 0, False
        self.position = _Position()

    def move(self, **changes: int | bool) -> bool:
        """Changes the position; returns whether a stop is asked for."""
        with self._lock:
            self.position = dataclasses.replace(self.position, **changes)
            return self._asked

    def reached(self) -> bool:
        """Passes a step; returns whether it is the last one."""
        if not self.move(steps=self.position.steps + 1):
            return False
        self._agreed.wait()
        return self.position.steps >= self._last_step

    def saved(self) -> NoReturn:
        """Ends the process from its main thread, after all was saved."""
        if self._processes:
            tell(f"{_SAVED}{self._processes[0]}")
            leave_at_once(STATUS)
        _say("what was trained is saved")
        raise SystemExit(STATUS)

    def watch(self) -> None:
        """Waits for a signal to this process, or to another one, and stops."""
        if self._processes is None:
            self._hears(None)
        else:
            while not self._hears(SECONDS_BETWEEN_LOOKS) and said(_STOP) is None:
                pass
        if self.over:
            return
        with self._lock:
            self._asked, mine = True, self.position
        positions = self._exchange(mine)
        training = {i: position for i, position in enumerate(positions) if position.unsaved}
        self._last_step = 1 + max((p.steps for p in training.values()), default=0)
        self._agreed.set()
        needed = any(p.trainings > mine.trainings for p in training.values())
        if mine.unsaved or needed:
            return  # the main thread comes to the step
        for index in training:
            awaited(f"{_SAVED}{index}", _LONGEST_SAVE)
        _say("what was done is kept")
        time.sleep(patience())
        os._exit(STATUS)

    def _exchange(self, mine: _Position) -> list[_Position]:
        """The positions of all processes, of which each then knows that it has to stop."""
        if self._processes is None:
            return [mine]
        index, count = self._processes
        tell(_STOP)
        tell(f"{_AT}{index}", json.dumps(dataclasses.asdict(mine)))
        texts = [awaited(f"{_AT}{i}", _LONGEST_SAVE) for i in range(count)]
        return [_Position(**json.loads(text)) for text in texts]


_stop: _Stop | None = None  # signals belong to the process


@contextlib.contextmanager
def stopping_in_order() -> Iterator[None]:
    """Makes SIGTERM, Ctrl-C and SIGHUP stop in order; a second Ctrl-C interrupts at once.

    What is ignored stays so, as `nohup` wants. Must be entered in the main thread, after the
    processes have joined: JAX takes SIGTERM then.
    """
    global _stop
    heard, hear = os.pipe()
    os.set_blocking(hear, False)

    def hears(seconds: float | None) -> bool:
        return bool(select.select([heard], [], [], seconds)[0])

    def handle(signum: int, frame: object) -> None:
        if signum == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.getsignal(number) for number in _SIGNALS}
    before = {number: how for number, how in before.items() if how != signal.SIG_IGN}
    for number in before:
        signal.signal(number, handle)
    wakeup = signal.set_wakeup_fd(hear)  # is written to at once, whatever the main thread does
    _stop = _Stop(hears)
    threading.Thread(target=_stop.watch, daemon=True).start()
    try:
        yield
    finally:
        _stop.over, _stop = True, None
        os.write(hear, b"\0")
        signal.set_wakeup_fd(wakeup)
        for number, how in before.items():
            signal.signal(number, how)


@contextlib.contextmanager
def training() -> Iterator[Callable[[], None]]:
    """A training, which a stop in the block is kept from ending before all is saved.

    Yields a call that says that from now on there is something to save. A stop ends the process
    where the block ends.
    """
    if _stop is None:
        yield lambda: None
        return
    stop = _stop

    def begin() -> None:
        stop.move(unsaved=True, trainings=stop.position.trainings + 1)

    try:
        yield begin
    finally:
        begun = stop.position.unsaved
        if stop.move(unsaved=False) and begun and sys.exc_info()[0] is None:
            stop.saved()


def reached() -> bool:
    """Whether to save now and leave the block; to be asked after each step, by all processes."""
    return _stop is not None and _stop.reached()


def check_stop() -> None:
    """As `reached`, within an evaluation; raises Stopped."""
    if reached():
        raise Stopped


def _say(what: str) -> None:
    print(
        f"yoda_jax: stopped by a signal; {what}, and the same command goes on from there.",
        file=sys.stderr,
        flush=True,
    )
