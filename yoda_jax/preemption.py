"""Stopping in order: SIGTERM or Ctrl-C to one process saves what all of them have not saved yet.

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

import jax
from jax._src import distributed as coordination  # its store of keys has no public name

from yoda_jax.processes import leave_at_once

STATUS = 75  # EX_TEMPFAIL of sysexits.h: to be tried again later
_STOP, _AT, _SAVED = "yoda_jax/stop", "yoda_jax/at/", "yoda_jax/saved/"
_SECONDS_BETWEEN_LOOKS = 1.0
_SECONDS_TO_BE_SEEN = 4.0  # process 0 keeps the store of keys, so it leaves last
_LONGEST_SAVE = 600_000  # milliseconds


@dataclasses.dataclass(frozen=True)
class _Position:
    """Where a process is: how many trainings it has begun, whether it is in one, steps passed."""

    trainings: int = 0
    unsaved: bool = False
    steps: int = 0


class _Stop:
    """A stop of this process, not yet asked for; `hears` tells when a signal has come."""

    def __init__(self, hears: Callable[[float | None], bool]) -> None:
        state = coordination.global_state
        self._hears, self._client, self._index = hears, state.client, state.process_id or 0
        self._count = (state.num_processes or 1) if state.client else 1
        self._lock, self._agreed = threading.Lock(), threading.Event()
        self._asked, self._last_step, self.over = False, 0, False
        self.position = _Position()

    def move(self, **changes: int | bool) -> bool:
        """Changes the position; returns whether a stop is asked for."""
        with self._lock:
            self.position = dataclasses.replace(self.position, **changes)
            return self._asked

    def reached(self) -> bool:
        if not self.move(steps=self.position.steps + 1):
            return False
        self._agreed.wait()
        return self.position.steps >= self._last_step

    def saved(self) -> NoReturn:
        """Ends the process from its main thread, after all was saved."""
        if self._client is not None:
            self._client.key_value_set(f"{_SAVED}{self._index}", "")
            leave_at_once(STATUS, self._patience())
        _say("what was trained is saved")
        raise SystemExit(STATUS)

    def watch(self) -> None:
        """Waits for a signal to this process, or to another one, and stops."""
        while not self._hears(_SECONDS_BETWEEN_LOOKS if self._client else None):
            if self._client and self._said(_STOP):
                break
        if self.over:
            return
        if self._client:
            with contextlib.suppress(jax.errors.JaxRuntimeError):  # another one was first
                self._client.key_value_set(_STOP, "")
        with self._lock:
            self._asked, mine = True, self.position
        others = self._exchange(mine)
        training = [other for other in others if other.unsaved]
        self._last_step = 1 + max((other.steps for other in training), default=0)
        self._agreed.set()
        needed = any(other.trainings > mine.trainings for other in training)
        if mine.unsaved or needed:
            return  # the main thread comes to the step
        for index, other in enumerate(others):
            if other.unsaved:
                self._client.blocking_key_value_get(f"{_SAVED}{index}", _LONGEST_SAVE)
        _say("what was done is kept")
        time.sleep(self._patience())
        os._exit(STATUS)

    def _exchange(self, mine: _Position) -> list[_Position]:
        if self._client is None:
            return [mine]
        text = json.dumps(dataclasses.asdict(mine))
        self._client.key_value_set(f"{_AT}{self._index}", text)
        keys = [f"{_AT}{index}" for index in range(self._count)]
        found = [self._client.blocking_key_value_get(key, _LONGEST_SAVE) for key in keys]
        return [_Position(**json.loads(text)) for text in found]

    def _said(self, key: str) -> bool:
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # how it says that nothing is there
            return self._client.key_value_try_get(key) is not None
        return False

    def _patience(self) -> float:
        return _SECONDS_TO_BE_SEEN if self._count > 1 and self._index == 0 else 0.0


_stop: _Stop | None = None  # signals belong to the process


@contextlib.contextmanager
def stopping_in_order() -> Iterator[None]:
    """Makes SIGTERM and Ctrl-C stop in order; a second Ctrl-C interrupts at once.

    Must be entered in the main thread, after the processes have joined: JAX takes SIGTERM then.
    """
    global _stop
    heard, hear = os.pipe()
    os.set_blocking(hear, False)

    def hears(seconds: float | None) -> bool:
        return bool(select.select([heard], [], [], seconds)[0])

    def interrupt(signum: int, frame: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)

    handlers = {signal.SIGTERM: lambda signum, frame: None, signal.SIGINT: interrupt}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    wakeup = signal.set_wakeup_fd(hear)  # is written to at once, whatever the main thread does
    _stop = _Stop(hears)
    threading.Thread(target=_stop.watch, daemon=True).start()
    try:
        yield
    finally:
        _stop.over, _stop = True, None
        os.write(hear, b"\0")
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)


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


class Stopped(Exception):
    """A stop within a step of the training, which is to be saved."""


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
