"""Calls to actors that are under way, and what is to be done when each answers, fails, or takes too long."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import psutil
import ray
from ray.exceptions import ActorDiedError, RayActorError, RayTaskError

from mdi_exit.errors import UserError
from mdi_exit.runtime.node import LifeOver
from mdi_exit.runtime.record import RunAborted

_WHY_S = 1.0  # within which whoever is gone has said why, if it could
_ENDED_WITHIN_S = 5.0  # after they were killed
_STEP_S = 0.1  # how soon an interrupt is noticed while everybody is waited for


class Unreachable(Exception):
    """The actor does not answer: its process is gone, for good or until it is started again, or its life is over."""

    def __init__(self, for_good: bool) -> None:
        super().__init__("gone for good" if for_good else "gone")
        self.for_good = for_good


def fetch(call: Any) -> Any:
    """Return the answer of a call that has ended.

    Raises Unreachable, the actor's UserError as a UserError, and RunAborted with the traceback for a bug of ours.
    """
    try:
        return ray.get(call)
    except ActorDiedError:
        raise Unreachable(for_good=True) from None
    except RayActorError:
        raise Unreachable(for_good=False) from None
    except RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise UserError(str(error.cause)) from None
        if isinstance(error.cause, LifeOver):  # why, its watch says
            raise Unreachable(for_good=False) from None
        line = str(error.cause).strip().partition("\n")[0]
        raise RunAborted(f"a worker failed: {type(error.cause).__name__}: {line}", str(error)) from None


_LATE = {  # what helps: is everybody on this machine?
    True: "this machine is too busy or too slow; allowed: fewer workers, or fewer other programs beside them",
    False: "are the machines up that are needed?",
}


class Calls:
    """Calls under way. Whatever a handler raises comes out of `attend`."""

    def __init__(self, interrupted: Callable[[], bool], is_local: bool) -> None:
        """`interrupted` says whether the user wants to stop waiting for everybody; `is_local`: all are on this
        machine."""
        self._interrupted, self._is_local = interrupted, is_local
        self._pending: dict[Any, tuple[Callable[[Any], None], Callable[[Exception], None]]] = {}
        self._later: list[tuple[float, Callable[[], None]]] = []

    def ask(
        self,
        call: Any,
        then: Callable[[Any], None] = lambda answer: None,
        otherwise: Callable[[Any], None] = lambda error: None,
    ) -> None:
        """Do `then` with the answer of a call, or `otherwise` with the Unreachable or UserError that came instead."""
        self._pending[call] = (then, otherwise)

    def later(self, delay_s: float, action: Callable[[], None]) -> None:
        """Do something after a while."""
        self._later.append((time.monotonic() + delay_s, action))

    def attend(self, timeout_s: float) -> None:
        """Wait for whatever comes first, at most so long, and do what was to be done about it."""
        now = time.monotonic()
        due = [entry for entry in self._later if entry[0] <= now]
        for entry in due:
            self._later.remove(entry)
            entry[1]()
        timeout_s = min([timeout_s, *(max(0.0, at_s - now) for at_s, _ in self._later)])
        if not self._pending:
            time.sleep(timeout_s)
            return
        ready, _ = ray.wait(list(self._pending), timeout=timeout_s)
        for call in ready:
            then, otherwise = self._pending.pop(call)
            try:
                answer = fetch(call)
            except (Unreachable, UserError) as error:
                if isinstance(error, RunAborted):
                    raise
                otherwise(error)
            else:
                then(answer)

    def gather(self, calls: Mapping[str, Any], within_s: float) -> dict[str, Any]:
        """Wait for all of these calls, by worker. Raises RunAborted when a worker is gone or takes too long, and
        KeyboardInterrupt when the user does not want to wait."""
        until_s, answers, waiting = time.monotonic() + within_s, dict[str, Any](), dict(calls)
        while waiting:
            ready, _ = ray.wait(list(waiting.values()), timeout=_STEP_S)
            for name in [name for name, call in waiting.items() if call in ready]:
                try:
                    answers[name] = fetch(waiting.pop(name))
                except Unreachable:
                    self.attend(_WHY_S)  # if it was a bug of ours, whoever asked to be told raises that
                    raise RunAborted(f"{name}: its process died while the run was starting") from None
            if self._interrupted():
                raise KeyboardInterrupt
            if waiting and time.monotonic() > until_s:
                raise RunAborted(f"{', '.join(waiting)}: not ready within {within_s:.0f} s; {_LATE[self._is_local]}")
        return answers


def wait_for_the_end_of(pids: Iterable[int]) -> None:
    """Wait until killed processes are gone, so that what follows finds their ports and memory free."""
    processes = []
    for pid in pids:
        try:
            processes.append(psutil.Process(pid))
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(processes, _ENDED_WITHIN_S)
