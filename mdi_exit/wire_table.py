"""Which values travel, each by its tag, and how their fields are read and written: compiled once from annotations."""

from __future__ import annotations

import operator
import types
import typing
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

from mdi_exit.core import effects as fx
from mdi_exit.core import events as ev
from mdi_exit.core import types as ty

VERSION = 7  # of the header and of TABLE; raised whenever a tag, a field or its meaning changes

TABLE: dict[int, type[Any]] = {
    # values inside others
    1: ty.Task,
    2: ty.ExitReading,
    3: ty.Result,
    4: ty.WorkerReport,
    5: ty.Routes,
    6: ty.Measurement,
    7: ty.Prices,
    8: ty.Way,
    9: ty.Verdict,
    # effects of a worker; the first seven are also the messages of a link
    16: fx.SendTasks,
    17: fx.Acknowledge,
    18: fx.SendResults,
    19: fx.SendReport,
    20: fx.SendThresholds,
    21: fx.SendPrices,
    22: fx.SendMeasurements,
    23: fx.RunSegment,
    24: fx.DeliverResults,
    25: fx.DeliverMeasurements,
    26: fx.DiscardPayloads,
    27: fx.SetTimer,
    # effects of the controller
    32: fx.Admit,
    33: fx.Complete,
    34: fx.CountDuplicate,
    35: fx.SetThresholds,
    36: fx.RecordControl,
    37: fx.Finish,
    38: fx.SolvePrices,
    39: fx.SetPrices,
    # events to a worker
    48: ev.TasksArrived,
    49: ev.SegmentDone,
    50: ev.SegmentFailed,
    51: ev.TasksDelivered,
    52: ev.TasksRefused,
    53: ev.TasksUndelivered,
    54: ev.ReportReceived,
    55: ev.ResultsArrived,
    56: ev.ResultsUndelivered,
    57: ev.ThresholdsReceived,
    58: ev.RoutesChanged,
    59: ev.TimerFired,
    60: ev.PricesReceived,
    61: ev.MeasurementsArrived,
    # events to the controller
    64: ev.SourceObserved,
    65: ev.DatumUnreadable,
    66: ev.WorkerLost,
    67: ev.WorkerJoined,
    68: ev.AdmissionOpened,
    69: ev.AdmissionClosed,
    70: ev.DrainExpired,
    71: ev.PricesSolved,
    72: ev.WorkerLeft,
}

# Many of one kind at once: a column per field. Links carry these in place of a tagged value for each, which takes half
# the bytes and a third of the time.
COLUMNS: dict[int, type[Any]] = {10: ty.Task, 11: ty.Result}
IN_COLUMNS: dict[type[Any], int] = {fx.SendTasks: 10, fx.SendResults: 11}  # messages whose last field they are

LinkMessage = (
    fx.SendTasks
    | fx.Acknowledge
    | fx.SendResults
    | fx.SendReport
    | fx.SendThresholds
    | fx.SendPrices
    | fx.SendMeasurements
)
LINK_MESSAGES = typing.get_args(LinkMessage)


class WireError(Exception):
    """A peer or a file sent something that is not a message of ours. Says what; the sender is known to the caller."""


_Reader = Callable[[Any], Any]


def _reader(hint: Any) -> _Reader:
    """Return the function that passes a decoded value of this annotation on and refuses any other."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple and arguments[-1] is Ellipsis:
        return _reader_of_many(_reader(arguments[0]))
    if origin is tuple:
        return _reader_of_row([_reader(argument) for argument in arguments])
    if origin in (types.UnionType, typing.Union):
        inner = _reader(next(argument for argument in arguments if argument is not types.NoneType))
        return lambda value: None if value is None else inner(value)
    if issubclass(hint, Enum):
        return _reader_of_enum(hint)
    if hint is float:
        return _read_float
    assert hint in (int, str, bool) or is_dataclass(hint), hint

    def read(value: Any) -> Any:
        if type(value) is not hint:
            raise WireError(f"{type(value).__name__} where {hint.__name__} belongs")
        return value

    return read


def _read_float(value: Any) -> float:
    if type(value) is float:
        return value
    if type(value) is int:
        return float(value)
    raise WireError(f"{type(value).__name__} where float belongs")


def _reader_of_many(inner: _Reader) -> _Reader:
    def read(value: Any) -> Any:
        if type(value) is not tuple:
            raise WireError(f"{type(value).__name__} where a list belongs")
        return tuple([inner(entry) for entry in value])

    return read


def _reader_of_row(inner: list[_Reader]) -> _Reader:
    def read(value: Any) -> Any:
        if type(value) is not tuple or len(value) != len(inner):
            raise WireError(f"no list of {len(inner)} entries")
        return tuple([each(entry) for each, entry in zip(inner, value, strict=True)])

    return read


def _reader_of_enum(kind: type[Enum]) -> _Reader:
    members = {member.value: member for member in kind}

    def read(value: Any) -> Any:
        if type(value) is not str or value not in members:
            raise WireError(f"{value!r} is no {kind.__name__}")
        return members[value]

    return read


def _writer(kind: type[Any]) -> Callable[[Any], tuple[object, ...]]:
    names = [field.name for field in fields(kind)]
    if kind in (ty.Prices, ty.Way):  # most of a large message are zeros and ones
        return lambda value: tuple([_short(getattr(value, name)) for name in names])
    if len(names) > 1:
        return operator.attrgetter(*names)
    return lambda value: tuple(getattr(value, name) for name in names)


def _short(value: Any) -> Any:
    """The same with 0.0 and 1.0 as whole numbers: a byte each. `_read_float` makes floats of them again."""
    if type(value) is tuple:
        return tuple([_short(entry) for entry in value])
    return int(value) if value in (0.0, 1.0) and type(value) is float else value


def _reader_of_fields(kind: type[Any]) -> _Reader:
    hints = typing.get_type_hints(kind)
    readers = tuple(_reader(hints[field.name]) for field in fields(kind))

    def read(content: Any) -> Any:
        if type(content) is not tuple or len(content) != len(readers):
            raise WireError(f"{kind.__name__} has {len(readers)} fields")
        return kind(*[read(value) for read, value in zip(readers, content, strict=True)])

    return read


def _reader_of_column(hint: Any) -> _Reader:
    inner = _reader(hint)
    plain = {hint} if hint in (int, float, str, bool) else set()

    def read(column: Any) -> Any:
        if type(column) is not tuple:
            raise WireError(f"{type(column).__name__} where a column belongs")
        return column if {*map(type, column)} == plain else [inner(value) for value in column]

    return read


def _reader_of_columns(kind: type[Any]) -> _Reader:
    hints = typing.get_type_hints(kind)
    readers = tuple(_reader_of_column(hints[field.name]) for field in fields(kind))

    def read(content: Any) -> Any:
        if type(content) is not tuple or len(content) != len(readers):
            raise WireError(f"{kind.__name__} has {len(readers)} fields")
        columns = [read(column) for read, column in zip(readers, content, strict=True)]
        if len({*map(len, columns)}) > 1:
            raise WireError(f"columns of {kind.__name__} that are not all as long")
        return tuple([kind(*row) for row in zip(*columns, strict=True)])

    return read


READERS = {tag: _reader_of_fields(kind) for tag, kind in TABLE.items()}
READERS |= {tag: _reader_of_columns(kind) for tag, kind in COLUMNS.items()}
WRITERS = {kind: (tag, _writer(kind)) for tag, kind in TABLE.items()}
