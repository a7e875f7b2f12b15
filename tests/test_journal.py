"""Journals: what is written is read back, a cut is survived, damage is found, replaying finds a changed decision."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdi_exit.core import events as ev
from mdi_exit.errors import UserError
from mdi_exit.journal import MAGIC, Header, JournalError, JournalWriter, digest, journals, read, read_header, replay

from .recorded import Recorded, record


@pytest.fixture(scope="module")
def run() -> Recorded:
    return record("find-rate", until_s=4.0)


def write(run: Recorded, folder: Path, node: str = "n1") -> Path:
    with JournalWriter(folder, Header(node, 0, run.experiment.plain())) as writer:
        for step in run.steps:
            if step.node == node:
                writer.write(step)
    return writer.path


@pytest.fixture(scope="module")
def content(run: Recorded, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a short journal."""
    short = replace(run, steps=[step for step in run.steps if step.node == "n1"][:60])
    return write(short, tmp_path_factory.mktemp("short")).read_bytes()


def test_what_is_written_is_read_back(run: Recorded, tmp_path: Path) -> None:
    for node in run.experiment.topology.workers:
        path = write(run, tmp_path, node)
        assert list(read(path)) == [step for step in run.steps if step.node == node]
        assert read_header(path) == Header(node, 0, run.experiment.plain())
    assert [path.name for path in journals(tmp_path)] == ["n1-0.journal", "n2-0.journal", "n3-0.journal"]


def test_both_cores_of_the_source_are_in_its_journal(run: Recorded, tmp_path: Path) -> None:
    assert {step.core for step in read(write(run, tmp_path))} == {"worker", "controller"}


def test_steps_reach_the_file_while_the_run_goes_on(run: Recorded, tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, Header("n1", 0, {}))
    for step in run.steps:
        if step.node == "n1":
            writer.write(step)
    written = len(list(read(writer.path)))
    writer.close()
    writer.close()
    assert 0 < written < len(list(read(writer.path)))  # what a killed worker leaves: all but the buffer


@given(data=st.data())
def test_a_cut_is_survived_anywhere_behind_the_header(
    data: st.DataObject, content: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("cut") / "n1-0.journal"
    path.write_bytes(content)
    whole = list(read(path))
    header_end = len(MAGIC) + 12 + int.from_bytes(content[len(MAGIC) : len(MAGIC) + 4], "big")
    path.write_bytes(content[: header_end - 1])
    with pytest.raises(JournalError, match="without a header"):
        list(read(path))
    kept = data.draw(st.integers(header_end, len(content) - 1))
    path.write_bytes(content[:kept])
    steps = list(read(path))
    assert len(steps) < len(whole) and steps == whole[: len(steps)]


@given(data=st.data())
def test_a_changed_byte_is_found_anywhere(
    data: st.DataObject, content: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "n1-0.journal"
    place = data.draw(st.integers(0, len(content) - 1))
    changed = bytearray(content)
    changed[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(changed)
    with pytest.raises(JournalError) as caught:
        list(read(path))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_no_journal_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    for path in (tmp_path / "text", tmp_path / "missing", tmp_path):
        with pytest.raises(UserError) as caught:
            list(read(path))
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(JournalError, match="cannot be written"):
        JournalWriter(tmp_path / "text", Header("n1", 0, {}))


def test_a_record_of_another_version_is_refused(tmp_path: Path) -> None:
    with JournalWriter(tmp_path, Header("n1", 0, {})) as writer:
        writer._append(b"\xc1")
    with pytest.raises(JournalError, match="step 1 is not one of this version's"):
        list(read(writer.path))


def test_a_digest_changes_with_anything_in_any_step(run: Recorded) -> None:
    steps = run.steps[:50]
    known = digest(steps)
    assert known == digest(iter(steps))
    changed = [
        steps[:-1],
        [steps[1], steps[0], *steps[2:]],
        [*steps[:-1], replace(steps[-1], now=steps[-1].now + 1e-9)],
        [*steps[:-1], replace(steps[-1], node="n9")],
        [*steps[:-1], replace(steps[-1], epoch=1)],
        [*steps[:-1], replace(steps[-1], effects=())],
    ]
    assert steps[-1].effects and len({known, *map(digest, changed)}) == 1 + len(changed)


def test_the_same_seed_gives_the_same_digest() -> None:
    runs = [record("poisson", until_s=1.0, seed=seed) for seed in (5, 5, 6)]
    digests = [digest(run.steps) for run in runs]
    assert digests[0] == digests[1] != digests[2]


def test_replaying_gives_the_recorded_effects(run: Recorded, tmp_path: Path) -> None:
    for node in run.experiment.topology.workers:
        assert replay(write(run, tmp_path, node), run.experiment, run.card) is None


def test_replaying_finds_the_first_step_that_is_decided_otherwise(run: Recorded, tmp_path: Path) -> None:
    lower = replace(run.experiment, thresholds=(0.5,) * 4)
    difference = replay(write(run, tmp_path), lower, run.card)
    assert difference is not None and isinstance(difference.step.event, ev.SegmentDone)
    assert difference.effects != difference.step.effects
    assert f"step {difference.number} at " in str(difference) and "\n" not in str(difference)


def test_replaying_finds_a_changed_record(run: Recorded, tmp_path: Path) -> None:
    rng = random.Random(0)
    mine = [step for step in run.steps if step.node == "n1"]
    at = rng.choice([number for number, step in enumerate(mine) if len(step.effects) > 1])
    mine[at] = replace(mine[at], effects=mine[at].effects[:-1])
    difference = replay(write(replace(run, steps=mine), tmp_path), run.experiment, run.card)
    assert difference is not None and difference.number == at + 1


def test_a_journal_of_another_graph_is_refused(run: Recorded, tmp_path: Path) -> None:
    other = record("find-rate", until_s=0.1, topology="local")
    with pytest.raises(JournalError, match="'n2', which find-rate does not have"):
        replay(write(run, tmp_path, "n2"), other.experiment, other.card)
