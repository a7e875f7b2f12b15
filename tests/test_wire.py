"""The wire: everything sent comes back equal, and whatever a peer gets wrong is a WireError and nothing else."""

from __future__ import annotations

import math
import random
import types
import typing
from collections.abc import Sequence
from dataclasses import fields, replace
from enum import Enum

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdi_exit import wire, wire_table
from mdi_exit.compute.base import FeatureShapes
from mdi_exit.config.load import load_experiment
from mdi_exit.core import effects as fx
from mdi_exit.core import events as ev
from mdi_exit.core.types import Measurement, Outcome, Prices, Result, Task, Verdict, Way, WorkerReport
from mdi_exit.errors import UserError
from mdi_exit.runtime.fit import check_fit, check_groups

EXITS = 5
WORKERS = ("a", "b")
LINK = Way("a", "b", "", 0.0, (), (0.5,) * EXITS)  # no channel
BACK = Way("b", "a", "", 0.0, (), (0.5,) * EXITS)
AIR = Way("a", "b", "air", 0.25, (0.125,) * EXITS, (0.5,) * EXITS)
MEASURED = Measurement("b", 0, 3, (0.01,) * EXITS, (("a", (0.1,) * EXITS),), (9.0,) * EXITS, (4.5,) * EXITS)
REPORT = WorkerReport("b", 4, 0, (0, 1, 2, 0, 0), (0, 3, 0, 0, 0), 0.002, 1, 2)
TASK = Task(7, 0, 2, 16, 1)
VERDICTS = (Verdict(1, 3, 0.5), Verdict(2, 4, 0.25))
MESSAGES: list[wire.LinkMessage] = [
    fx.SendTasks("b", 1, (TASK, Task(8, 1, 2, 16, 0, 4, VERDICTS))),
    fx.Acknowledge("a", 1, True, REPORT),
    fx.SendResults(
        "a", (Result(7, 0, 2, 3, 0.9), Result(8, 1, 5, -1, 0.0, "broken"), Result(9, 0, 5, 4, 0.25, None, VERDICTS))
    ),
    fx.SendReport("a", REPORT),
    fx.SendThresholds("b", 2, (0.5, 0.6, 0.7, 0.8)),
    fx.SendPrices("b", Prices(2, WORKERS, ((1.0,) * EXITS, (0.5,) * EXITS), (AIR, BACK))),
    fx.SendMeasurements("b", (MEASURED,)),
]
TENSORS = [np.arange(8, dtype=np.float16).reshape(2, 2, 2), np.ones((2, 2, 2), np.float16)]


def frames_of(message: wire.LinkMessage) -> list[bytes]:
    """What really arrives: bytes, not views of the sender's memory."""
    tensors = TENSORS if isinstance(message, fx.SendTasks) else []
    return [bytes(frame) for frame in wire.encode(message, tensors)]


def read(frames: Sequence[wire.Buffer]) -> tuple[wire.LinkMessage, list[wire.Tensor]]:
    """The one message that came."""
    (message,) = wire.decode(frames)
    return message


def values_of(hint: typing.Any) -> st.SearchStrategy[typing.Any]:
    """Any value an annotation of the core allows."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return st.lists(values_of(arguments[0]), max_size=3).map(tuple)
        return st.tuples(*map(values_of, arguments))
    if origin in (types.UnionType, typing.Union):
        return st.one_of(*(st.none() if argument is types.NoneType else values_of(argument) for argument in arguments))
    if hint is int:
        return st.integers(-(2**63), 2**64 - 1)
    if hint is float:
        return st.floats(allow_nan=False)
    if issubclass(hint, Enum):
        return st.sampled_from(list(hint))
    return {str: st.text("aé\0 ", max_size=4), bool: st.booleans()}[hint] if hint in (str, bool) else instances_of(hint)


def instances_of(kind: type[typing.Any]) -> st.SearchStrategy[typing.Any]:
    hints = typing.get_type_hints(kind)
    return st.builds(kind, **{field.name: values_of(hints[field.name]) for field in fields(kind)})


def test_every_event_and_effect_has_a_tag() -> None:
    kinds = set(wire_table.TABLE.values())
    assert len(kinds) == len(wire_table.TABLE)
    assert set(typing.get_args(ev.Event)) | set(typing.get_args(fx.Effect)) <= kinds


@pytest.mark.parametrize("kind", wire_table.TABLE.values(), ids=lambda kind: kind.__name__)
@given(data=st.data())
@settings(max_examples=20)
def test_every_value_comes_back_equal(kind: type, data: st.DataObject) -> None:
    value = data.draw(instances_of(kind))
    packed = wire.pack((0.5, "n", None, True, 3, b"raw", value, (value,)))
    assert wire.unpack(packed) == (0.5, "n", None, True, 3, b"raw", value, (value,))


def test_nan_and_enums_come_back_as_themselves() -> None:
    back = wire.unpack(wire.pack(fx.Complete(1, Outcome.LOST, 0, -1, math.nan, 1, 2)))
    assert back.outcome is Outcome.LOST and math.isnan(back.confidence) and type(back.latency_s) is float


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_messages_of_a_link_round_trip_with_their_tensors(message: wire.LinkMessage) -> None:
    decoded, tensors = read(frames_of(message))
    check_fit(decoded, EXITS, WORKERS)
    assert decoded == message
    expected = TENSORS if isinstance(message, fx.SendTasks) else []
    assert len(tensors) == len(expected)
    for tensor, original in zip(tensors, expected, strict=True):
        assert tensor.dtype == original.dtype
        np.testing.assert_array_equal(tensor, original)


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32", "int8"])
@pytest.mark.parametrize("shape", [(3, 4, 5), (1,), (0, 4), ()])
def test_tensors_of_every_type_and_shape(dtype: str, shape: tuple[int, ...]) -> None:
    tensor = np.random.default_rng(0).integers(0, 100, shape).astype(dtype)
    _, (back,) = read([bytes(f) for f in wire.encode(fx.SendTasks("b", 1, (TASK,)), [tensor])])
    assert back.dtype == tensor.dtype and back.shape == tensor.shape
    np.testing.assert_array_equal(back, tensor)


def test_tensors_are_copied_neither_out_nor_in() -> None:
    tensor = np.zeros((4, 4), np.float32)
    frames = wire.encode(fx.SendTasks("b", 1, (TASK,)), [tensor])
    assert np.shares_memory(np.frombuffer(frames[1], np.uint8), tensor)
    _, (back,) = read(frames)
    assert np.shares_memory(back, tensor)
    strided = np.arange(16, dtype=np.float32).reshape(4, 4).T
    _, (back,) = read(wire.encode(fx.SendTasks("b", 1, (TASK,)), [strided]))
    np.testing.assert_array_equal(back, strided)


@pytest.mark.parametrize(("side", "frames"), [(4, 2), (256, 3)])
def test_small_tensors_of_a_group_share_a_frame_and_large_ones_are_not_copied(side: int, frames: int) -> None:
    group = np.arange(2 * side * side, dtype=np.float32).reshape(2, side, side)
    tensors = [group[1], group[0].T]  # neither in the order of memory nor contiguous
    sent = wire.encode(fx.SendTasks("b", 1, (TASK, TASK)), tensors)
    assert len(sent) == frames
    assert np.shares_memory(np.frombuffer(sent[1], np.uint8), group) == (frames == 3)
    _, back = read([bytes(frame) for frame in sent])
    for one, other in zip(back, tensors, strict=True):
        np.testing.assert_array_equal(one, other)
    different: list[wire.Tensor] = [np.zeros(4, np.float32), np.zeros(4, np.float16)]
    assert len(wire.encode(fx.SendTasks("b", 1, (TASK, TASK)), different)) == 3


@pytest.mark.parametrize("code", range(6))
@pytest.mark.parametrize("shape", [(0, *(wire.DIMENSION_MAX,) * 5), (*(wire.DIMENSION_MAX,) * 4, 0, 0)])
def test_an_empty_tensor_of_an_endless_shape_is_refused(code: int, shape: tuple[int, ...]) -> None:
    """Numpy multiplies what is not 0, and raises what nobody expects."""
    sent = wire.encode(fx.SendTasks("b", 1, (TASK,)), [np.zeros((1,), np.uint8)])
    version, message, _ = msgpack.unpackb(sent[0], strict_map_key=False)
    with pytest.raises(wire.WireError, match="a tensor of shape"):
        read([msgpack.packb((version, message, ((code, shape, 1),))), b""])


@given(message=st.sampled_from(MESSAGES), seed=st.integers(0, 2**32))
@settings(max_examples=500)
def test_mutated_frames_are_refused_or_still_fit(message: wire.LinkMessage, seed: int) -> None:
    rng = random.Random(seed)
    frames = [bytearray(frame) for frame in frames_of(message)]
    for _ in range(rng.randint(1, 4)):
        frame = rng.choice(frames)
        change = rng.randrange(4)
        if change == 0 and frame:
            frame[rng.randrange(len(frame))] = rng.randrange(256)
        elif change == 1:
            frame.insert(rng.randint(0, len(frame)), rng.randrange(256))
        elif change == 2:
            del frame[rng.randint(0, len(frame)) :]
        else:
            frames.insert(rng.randint(0, len(frames)), bytearray(rng.randbytes(rng.randrange(9))))
    try:
        decoded, tensors = read([bytes(frame) for frame in frames])
        check_fit(decoded, EXITS, WORKERS)
    except wire.WireError:
        return
    assert isinstance(decoded, typing.get_args(wire.LinkMessage)) and len(tensors) in (0, len(TENSORS))


@given(st.lists(st.binary(max_size=64), max_size=4), st.binary(max_size=64))
def test_random_bytes_are_refused(frames: list[bytes], packed: bytes) -> None:
    with pytest.raises(wire.WireError):
        read(frames)
    try:
        wire.unpack(packed)
    except wire.WireError as error:
        assert str(error)


JSON_LIKE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=4)
    | st.binary(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.integers(0, 80) | st.text(max_size=2), inner, max_size=2)
    ),
    max_leaves=12,
)


@given(JSON_LIKE)
@settings(max_examples=300)
def test_well_formed_msgpack_of_anything_is_refused_as_a_message(content: object) -> None:
    for header in (content, [wire_table.VERSION, content, []], [wire_table.VERSION, {16: content}, []]):
        with pytest.raises(wire.WireError):
            read([msgpack.packb(header)])


def header(*content: object) -> list[bytes]:
    return [msgpack.packb(content)]


GOOD_TASKS = {16: ["b", 1, {10: [[7], [0], [2], [16], [1], [0], [[]]]}]}
TWO_TASKS = {16: ["b", 1, {10: [[7, 8], [0, 0], [2, 2], [16, 16], [1, 1], [0, 0], [[], []]]}]}


@pytest.mark.parametrize(
    ("frames", "complaint"),
    [
        ([], "0 frames"),
        ([b"\x00"] * (wire.FRAMES_MAX + 1), "frames"),
        (header(wire_table.VERSION + 1, GOOD_TASKS, []), f"speaks version {wire_table.VERSION + 1}"),
        (header(wire_table.VERSION, {27: ["gossip", 1.0]}, []), "SetTimer is no message"),
        (header(wire_table.VERSION, {99: []}, []), "unknown tag 99"),
        (header(wire_table.VERSION, {16: ["b", 1]}, []), "SendTasks has 3 fields"),
        (header(wire_table.VERSION, {16: ["b", True, []]}, []), "bool where int"),
        (header(wire_table.VERSION, {16: [b"b", 1, []]}, []), "bytes where str"),
        (header(wire_table.VERSION, {16: ["b", 1, [[7, 0, 2, 16, 1]]]}, []), "tuple where Task"),
        (header(wire_table.VERSION, GOOD_TASKS, [[2, [4], 1]]), "another number of tensors"),
        ([*header(wire_table.VERSION, GOOD_TASKS, [[9, [4], 1]]), b"1234"], "unknown tensor type"),
        ([*header(wire_table.VERSION, GOOD_TASKS, [[0, [5], 1]]), b"1234"], "came as 4 bytes"),
        ([*header(wire_table.VERSION, GOOD_TASKS, [[0, [-2, -2], 1]]), b"1234"], "dimension is -2"),
        ([*header(wire_table.VERSION, GOOD_TASKS, [[0, [2**40, 0], 1]]), b""], "dimension is"),
        ([*header(wire_table.VERSION, GOOD_TASKS, [[0, [1] * 9, 1]]), b"1"], "not a short list"),
        ([*header(wire_table.VERSION, GOOD_TASKS, [[0, [1], 1], [0, [1], 1]]), b"1", b"1"], "1 tensors in a frame"),
        ([*header(wire_table.VERSION, TWO_TASKS, [[0, [1], 1]]), b"1"], "1 tensors with a SendTasks"),
        ([*header(wire_table.VERSION, TWO_TASKS, [[0, [1], 3]]), b"123"], "3 tensors in a frame, where 2"),
        ([*header(wire_table.VERSION, TWO_TASKS, [[0, [1], 2]]), b"123"], "came as 3 bytes"),
        ([*header(wire_table.VERSION, TWO_TASKS, [[5, [1], 2]]), b"123456789012"], "2 coded features in a frame"),
        ([*header(wire_table.VERSION, GOOD_TASKS, [[0, [1]]]), b"1"], "not described as"),
        (header(wire_table.VERSION, {16: ["b", 1, {10: [[7]] * 6}]}, []), "Task has 7 fields"),
        (header(wire_table.VERSION, {16: ["b", 1, {10: [7] * 7}]}, []), "int where a column"),
        (header(wire_table.VERSION, {16: ["b", 1, {10: [[7, 8], *[[7]] * 5, [[]]]}]}, []), "not all as long"),
        (header(wire_table.VERSION, {16: ["b", 1, {10: [[True], *[[7]] * 5, [[]]]}]}, []), "bool where int"),
        (header(wire_table.VERSION, {16: ["b", 1, {11: [[7], [0], [2], [3], [0.9], [None], [[]]]}]}, []), "where Task"),
        ([*header(wire_table.VERSION, {18: ["a", []]}, [[0, [1], 1]]), b"1"], "1 tensors in a frame, where 0"),
        ([b"\xdd\xff\xff\xff\xff"], "max_array_len"),
        ([b"\x91" * 100_000], "not a message"),
        ([b"\x00" * (wire.HEADER_BYTES_MAX + 1)], "allowed are"),
    ],
)
def test_each_mistake_is_named(frames: list[bytes], complaint: str) -> None:
    with pytest.raises(wire.WireError, match=complaint):
        read(frames)


def test_messages_that_come_together_are_told_apart_up_to_one_that_is_bad() -> None:
    frames = [frame for message in MESSAGES for frame in frames_of(message)]
    assert [message for message, _ in wire.decode(frames)] == MESSAGES
    assert [len(tensors) for _, tensors in wire.decode(frames)] == [
        len(TENSORS) if isinstance(message, fx.SendTasks) else 0 for message in MESSAGES
    ]
    told = wire.decode([*frames_of(MESSAGES[0]), b"garbage", *frames_of(MESSAGES[1])])
    assert next(told)[0] == MESSAGES[0]
    with pytest.raises(wire.WireError, match="not a message"):
        next(told)


@pytest.mark.parametrize(
    "message",
    [
        fx.SendTasks("b", 1, ()),
        fx.SendTasks("b", 1, (replace(TASK, k=0),)),
        fx.SendTasks("b", 1, (replace(TASK, k=EXITS + 1),)),
        fx.SendTasks("b", 1, (TASK, replace(TASK, k=3))),
        fx.SendTasks("b", 1, (replace(TASK, data_id=-1),)),
        fx.SendTasks("b", 1, (replace(TASK, payload_bytes=-1),)),
        fx.SendTasks("b", -1, (TASK,)),
        fx.Acknowledge("a", 1, True, replace(REPORT, waiting=(1,))),
        fx.SendReport("a", replace(REPORT, compute_delay_s=math.nan)),
        fx.SendReport("a", replace(REPORT, waiting=(0, 0, 0, 0, -9))),
        fx.SendReport("a", replace(REPORT, sequence=2**64 - 1)),
        fx.SendResults("a", (Result(7, 0, 6, 3, 0.9),)),
        fx.SendResults("a", (Result(7, 0, 2, 3, math.inf),)),
        fx.SendTasks("b", 1, (replace(TASK, arm=-1),)),
        fx.SendTasks("b", 1, (replace(TASK, seen=VERDICTS * 3),)),
        fx.SendTasks("b", 1, (replace(TASK, seen=(Verdict(6, 3, 0.5),)),)),
        fx.SendTasks("b", 1, (replace(TASK, seen=(Verdict(1, -1, 0.5),)),)),
        fx.SendResults("a", (Result(7, 0, 2, 3, 0.9, None, (Verdict(1, 3, math.nan),)),)),
        fx.SendThresholds("a", 1, (0.5,)),
        fx.SendThresholds("a", 1, (0.5, 0.5, 0.5, math.nan)),
        fx.SendPrices("b", Prices(2, ("a", "z"), ((1.0,) * EXITS,) * 2, ())),
        fx.SendPrices("b", Prices(2, ("a", "a"), ((1.0,) * EXITS,) * 2, ())),
        fx.SendPrices("b", Prices(2, ("a",), ((-1.0,) * EXITS,), ())),
        fx.SendPrices("b", Prices(2, ("a",), ((1.0,) * EXITS,), (replace(AIR, receiver="z"),))),
        fx.SendPrices("b", Prices(2, ("a",), ((1.0,) * EXITS,), (replace(AIR, nu=-0.1),))),
        fx.SendPrices("b", Prices(2, ("a",), ((1.0,) * EXITS,), (replace(AIR, air_s=()),))),
        fx.SendPrices("b", Prices(2, ("a",), ((1.0,) * EXITS,), (replace(LINK, share=(0.5,)),))),
        fx.SendPrices("b", Prices(2, ("a",), ((1.0,) * EXITS,), (replace(LINK, air_s=AIR.air_s),))),
        fx.SendPrices("b", Prices(2, ("a",), ((1.0,) * EXITS,), (AIR,) * 5)),
        fx.SendPrices("b", Prices(2, ("a",), ((1.0,) * EXITS,), (AIR, LINK))),
        fx.SendPrices("b", Prices(2, ("a",), ((1.0,) * EXITS,), (replace(AIR, receiver="a"),))),
        fx.SendMeasurements("b", (replace(MEASURED, worker="z"),)),
        fx.SendMeasurements("b", (replace(MEASURED, links=(("z", (0.1,) * EXITS),)),)),
        fx.SendMeasurements("b", (replace(MEASURED, links=(("a", (1e-310,) * EXITS),)),)),
        fx.SendMeasurements("b", (replace(MEASURED, compute_s=(1e-15,) * EXITS),)),
        fx.SendMeasurements("b", (replace(MEASURED, compute_s=(1e300,) * EXITS),)),
        fx.SendMeasurements("b", (replace(MEASURED, computed=(1e12,) * EXITS),)),
    ],
)
def test_what_no_worker_of_this_network_would_say_is_refused(message: wire.LinkMessage) -> None:
    decoded, _ = read([bytes(frame) for frame in wire.encode(message)])
    with pytest.raises(wire.WireError):
        check_fit(decoded, EXITS, WORKERS)


def test_groups_that_no_message_can_carry_are_refused_before_a_run_and_the_largest_allowed_ones_arrive() -> None:
    features = FeatureShapes(((3, 224, 224), (256, 56, 56), (512, 28, 28)))  # ResNet-50's at 224x224
    for most in (83, 84):
        experiment = load_experiment(None, {"topology": "2-node", "worker.group_max": most})
        tasks = tuple(Task(n, 0, 2, features.size_bytes(1)) for n in range(most))
        tensor = np.zeros(features.shape(1), np.float32)
        frames = wire.encode(fx.SendTasks("b", 1, tasks), [tensor] * most)
        if most == 83:
            check_groups(experiment, features)
            assert len(read(frames)[1]) == most
            continue
        with pytest.raises(UserError, match=r"^worker\.group_max: is 84 for n1, too many [^\n]*; allowed: at most 83$"):
            check_groups(experiment, features)
    check_groups(load_experiment(None, {"topology": "local", "worker.group_max": 1024}), features)
