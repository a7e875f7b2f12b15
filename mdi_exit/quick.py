"""What costs time at every event beside deciding: making values, and looking for garbage. No rule depends on it."""

from __future__ import annotations

import contextlib
import gc
import typing
from collections.abc import Iterator
from dataclasses import MISSING, fields
from typing import Any, Final

from mdi_exit.core.effects import Effect
from mdi_exit.core.events import Event
from mdi_exit.core.types import Result, Task, WorkerReport

KINDS: Final[tuple[type[Any], ...]] = (Task, Result, WorkerReport, *typing.get_args(Event | Effect))
_COLLECT_EVERY = 100_000  # objects more than there were


def quicken(kind: type[Any]) -> None:
    """Let a frozen dataclass with slots be made in about half the time; all else stays as it is.

    Its own `__init__` gets past `frozen` by a call for every field. Here a new value is of a class with the same slots
    that is open, and becomes frozen when it is whole. For those without `__post_init__` and factories of defaults.
    """
    names, plain = [field.name for field in fields(kind)], not hasattr(kind, "__post_init__")
    assert plain and all(field.init and field.default_factory is MISSING for field in fields(kind)), kind
    assert not {"self", "_", "kind", "new", "open"} & {*names}, kind
    known: dict[str, Any] = {"kind": kind, "open": type("Open", (), {"__slots__": names}), "new": object.__new__}
    stores = "".join(f"; self.{name} = {name}" for name in names)
    exec(f"def made(_, {', '.join(names)}): self = new(open){stores}; self.__class__ = kind; return self", known)
    made = known["made"]
    made.__defaults__ = vars(kind)["__init__"].__defaults__

    def reduced(self: Any) -> tuple[Any, ...]:  # to be pickled and copied
        return kind, tuple([getattr(self, name) for name in names])

    for name, method in (("__new__", made), ("__reduce__", reduced)):
        setattr(kind, name, method)
    del kind.__init__


@contextlib.contextmanager
def few_collections() -> Iterator[None]:
    """Look for cycles seldom: a world makes none, and has much to look through, of which next to all stays."""
    usual = gc.get_threshold()
    gc.set_threshold(usual[0] and max(usual[0], _COLLECT_EVERY), *usual[1:])
    try:
        yield
    finally:
        gc.set_threshold(*usual)
