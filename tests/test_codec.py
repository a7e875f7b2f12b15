"""How features are written on links: within the bound, named in the frame, refused when damaged, counted alike."""

from __future__ import annotations

import dataclasses
import random
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from mdi_exit import codec, wire
from mdi_exit.config.load import load_experiment
from mdi_exit.core import effects as fx
from mdi_exit.core.types import Task
from mdi_exit.runtime.coder import Coder, Meter
from mdi_exit.shaping import Shape
from mdi_exit.topology_file import load
from mdi_exit.yamlfile import ConfigError

NUMBERS = st.floats(-1e4, 1e4, width=32, allow_subnormal=False)
FEATURES = hnp.arrays(np.float32, hnp.array_shapes(max_dims=3, max_side=6), elements=NUMBERS)
FEATURE = np.random.default_rng(5).normal(size=(32, 8, 8)).astype(np.float32)
TASK = Task(7, 0, 3, FEATURE.nbytes, 1)
SEND = fx.SendTasks("b", 1, (TASK,))


def read(frames: Sequence[wire.Buffer]) -> list[wire.Tensor]:
    """The tensors of the one message that came."""
    ((_, tensors),) = wire.decode(frames)
    return tensors


@given(FEATURES, st.sampled_from([codec.FP16, codec.INT8]))
def test_a_coded_feature_comes_back_within_the_stated_bound(feature: NDArray[np.float32], encoding: str) -> None:
    data = codec.encode(encoding, feature)
    assert len(data) == codec.size_bytes(encoding, feature.size)
    back = codec.decode(encoding, feature.shape, data)
    assert back.dtype == np.float32 and back.shape == feature.shape
    assert np.abs(back.astype(float) - feature.astype(float)).max(initial=0) <= codec.error_max(encoding, feature)


def test_the_bound_is_no_more_than_half_a_step_of_255_and_eleven_bits() -> None:
    span, largest = float(np.ptp(FEATURE)), float(np.abs(FEATURE).max())
    assert codec.error_max(codec.INT8, FEATURE) == pytest.approx(span / 510, rel=1e-2)
    assert codec.error_max(codec.FP16, FEATURE) == pytest.approx(largest / 2048, rel=1e-2)
    assert codec.error_max(codec.FP32, FEATURE) == 0


@given(hnp.arrays(np.float32, 7, elements=st.floats(width=32)), st.sampled_from(codec.ENCODINGS))
def test_any_fp32_travels_and_as_it_is_where_an_encoding_cannot_hold_it(
    feature: NDArray[np.float32], encoding: str
) -> None:
    (back,) = read(wire.encode(SEND, [feature], encoding))
    if encoding == codec.FP32 or not np.isfinite(feature).all() or np.abs(feature).max() > 3e38:
        assert back.tobytes() == feature.tobytes()  # exactly, nan and all
    else:
        assert np.isfinite(back).all()


def test_a_frame_names_its_encoding_and_images_stay_as_they_are() -> None:
    image = np.arange(12, dtype=np.uint8).reshape(3, 2, 2)
    sizes = {}
    for encoding in codec.ENCODINGS:
        frames = wire.encode(SEND, [FEATURE], encoding)
        sizes[encoding] = len(frames[1])
        (back,) = read(frames)
        assert back.dtype == np.float32 and np.abs(back - FEATURE).max() <= codec.error_max(encoding, FEATURE)
        (seen,) = read(wire.encode(SEND, [image], encoding))
        assert seen.dtype == np.uint8 and (seen == image).all()
    assert sizes == {"fp32": 8192, "fp16": 4096, "int8": 2056}


def test_a_feature_of_one_number_throughout_is_exact() -> None:
    flat = np.full((4, 4), 0.3, np.float32)
    assert (codec.decode(codec.INT8, flat.shape, codec.encode(codec.INT8, flat)) == flat).all()


@pytest.mark.parametrize(
    ("encoding", "damage", "complaint"),
    [
        ("int8", lambda data: data[:-1], "2055 bytes of int8 for a feature of shape (32, 8, 8)"),
        ("fp16", lambda data: data + b"\0", "4097 bytes of fp16 for a feature of shape (32, 8, 8)"),
        ("fp16", lambda data: b"\x00\x7c" + data[2:], "an fp16 feature that is not finite"),
        ("int8", lambda data: data[:-8] + struct.pack("<ff", np.nan, 1.0), "an int8 feature whose range is not finite"),
        ("int8", lambda data: data[:-8] + struct.pack("<ff", 0.0, np.inf), "an int8 feature whose range is not finite"),
        ("int8", lambda data: data[:-8] + struct.pack("<ff", 0.0, -1.0), "an int8 feature whose range is not finite"),
        ("int8", lambda data: data[:-8] + struct.pack("<ff", 3e38, 3e37), "an int8 feature whose range is not finite"),
    ],
)
def test_a_damaged_feature_is_refused_in_a_line(encoding: str, damage: Any, complaint: str) -> None:
    header, data = wire.encode(SEND, [FEATURE], encoding)
    with pytest.raises(wire.WireError) as refused:
        read([header, damage(bytes(data))])
    assert str(refused.value) == complaint


def test_a_small_frame_cannot_claim_a_large_feature() -> None:
    header, _ = wire.encode(SEND, [FEATURE], "int8")
    huge = bytes(header).replace(bytes([32, 8, 8]), b"\xce" + (1 << 20).to_bytes(4, "big") + bytes([127, 8]))
    assert huge != header
    with pytest.raises(wire.WireError, match="larger than"):
        read([huge, b"\0" * 8])


@pytest.mark.parametrize("messages", [1, 2])
def test_what_comes_together_becomes_no_more_than_a_message_may_be(
    monkeypatch: pytest.MonkeyPatch, messages: int
) -> None:
    """Coded features grow to four times their bytes."""
    two = (TASK, dataclasses.replace(TASK, data_id=8))
    if messages == 1:
        frames = wire.encode(fx.SendTasks("b", 1, two), [FEATURE, FEATURE], "int8")
    else:
        frames = [frame for task in two for frame in wire.encode(fx.SendTasks("b", 1, (task,)), [FEATURE], "int8")]
    came, becomes = sum(map(len, frames)), 2 * FEATURE.nbytes
    assert came < becomes - 1
    monkeypatch.setattr(wire, "MESSAGE_BYTES_MAX", becomes)
    assert sum(len(tensors) for _, tensors in wire.decode(frames)) == 2
    monkeypatch.setattr(wire, "MESSAGE_BYTES_MAX", becomes - 1)
    with pytest.raises(wire.WireError, match="larger than"):
        list(wire.decode(frames))


def test_auto_takes_what_is_there_first() -> None:
    assert codec.fastest(2048, None) == codec.FP32
    assert codec.fastest(2048, 5e6) == codec.INT8
    assert codec.fastest(2048, 1e12) == codec.FP32
    slow, fast = Shape(5e6, encoding="auto"), Shape(encoding="auto")
    assert (slow.chosen(8192), fast.chosen(8192)) == ("int8", "fp32")
    assert slow.travels_bytes(3, 8192) == 2056 and slow.travels_bytes(1, 3072) == 3072
    assert fast.travels_bytes(3, 8192) == 8192 and Shape(5e6, encoding="fp16").travels_bytes(3, 8192) == 4096


def metered(seconds_per_byte: float, noise_s: float, sizes: list[int]) -> Meter:
    draw, meter = random.Random(3), Meter()
    for number in range(200):
        size = sizes[number % len(sizes)]
        meter.add(size, 0.002 + size * seconds_per_byte + draw.random() * noise_s)
    return meter


def test_a_links_bandwidth_is_read_off_how_much_longer_more_bytes_take() -> None:
    found = metered(8 / 5e6, 0.002, [8300, 4200]).bandwidth_bps
    assert found is not None and 4e6 < found < 7e6
    assert metered(8 / 5e6, 0.002, [8300]).bandwidth_bps is None  # one size says nothing
    assert metered(0.0, 0.004, [8300, 4200]).bandwidth_bps is None  # a delay that is the same for all sizes


@pytest.mark.parametrize(("bandwidth_bps", "wanted"), [(5e6, "int8"), (1e12, "fp32")])
def test_auto_finds_the_encoding_of_a_link_of_which_nothing_is_said(bandwidth_bps: float, wanted: str) -> None:
    coder, draw, chosen = Coder(Shape(encoding="auto")), random.Random(4), []
    for _ in range(300):
        chosen.append(coder.encoding(8192))
        size = coder.travels_bytes(TASK)
        assert size == codec.size_bytes(chosen[-1], 2048)
        coder.answered(size, 0.001 + size * 8 / bandwidth_bps + draw.random() * 0.0005)
    assert chosen[:15] == ["fp32"] * 15 and chosen[15] == "fp16"  # tried, to learn from another size
    assert [encoding for encoding in chosen[100:] if encoding != "fp16"] == [wanted] * sum(
        encoding != "fp16" for encoding in chosen[100:]
    )
    assert chosen[100:].count("fp16") <= 13


def test_a_stated_bandwidth_is_gone_by_and_nothing_is_tried() -> None:
    coder = Coder(Shape(5e6, encoding="auto"))
    for _ in range(40):
        assert coder.encoding(8192) == "int8"
        coder.answered(2056, 1e-6)


def test_an_experiments_links_and_a_topologys_say_how_features_are_written(tmp_path: Path) -> None:
    graph = tmp_path / "graph.yaml"
    graph.write_text(
        "source: a\nworkers: [a, b, c]\nlinks:\n  - [a, b]\n  - {between: [b, c], encoding: fp16}\n", encoding="utf-8"
    )
    experiment = load_experiment(None, {"topology": str(graph), "links.encoding": "auto"})
    assert [link.shape.encoding for link in experiment.topology.links] == ["auto", "fp16"]
    assert experiment.topology.plain()["links"][1]["encoding"] == "fp16"
    with pytest.raises(ConfigError) as refused:
        load_experiment(None, {"topology": str(graph), "links.encoding": "int4"})
    line = str(refused.value)
    assert "\n" not in line and "encoding is 'int4'; allowed: fp32, fp16, int8, auto" in line
    graph.write_text("source: a\nworkers: [a, b]\nlinks:\n  - {between: [a, b], snr_db: 5, encoding: int8}\n")
    with pytest.raises(ConfigError, match="encoding of a link with snr_db"):
        load(graph, shaping=Shape())


def test_answers_travel_on_the_link_that_leads_their_way_before_one_against_it() -> None:
    experiment = load_experiment(None, {"topology": "3-node-circular"})
    for link in experiment.topology.links:
        assert experiment.topology.carrier(link.a, link.b) is link
    one = experiment.topology.links[0]
    only = dataclasses.replace(one, one_way=True)
    graph = dataclasses.replace(experiment.topology, links=(only, *experiment.topology.links[1:]))
    assert graph.carrier(one.b, one.a) is only and graph.carrier(one.a, "nobody") is None
