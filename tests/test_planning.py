"""Plans: the best placement within memory, what it promises, hand-made cuts, and what is written down."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mdi_exit.analysis import planning
from mdi_exit.analysis.fluid import OptimumError
from mdi_exit.analysis.planning import Basis, PlanError, even_split, find_plan, slices_that_fit
from mdi_exit.analysis.preview import in_words, preview
from mdi_exit.assembly import load_card
from mdi_exit.cli import planned
from mdi_exit.cli.planned import basis_of
from mdi_exit.config import Experiment
from mdi_exit.config.load import load_experiment
from mdi_exit.devices import DeviceProfile, Overhead
from mdi_exit.topology import Link, Topology
from mdi_exit.trace import ExitTrace, trace_of

from .test_cli import here, mdi_exit, refused

NANO = "jetson-nano"
UNEQUAL = {  # 4 times as fast as each other
    "2-node": {"n1": 1.0, "n2": 4.0},
    "3-node-mesh": {"n1": 1.0, "n2": 4.0, "n3": 1.0},
    "line": {"n1": 4.0, "n2": 1.0, "n3": 4.0, "n4": 1.0},
    "star": {"hub": 1.0, "n1": 4.0, "n2": 1.0, "n3": 4.0, "n4": 1.0},
    "5-node-mesh": {"n1": 1.0, "n2": 4.0, "n3": 1.0, "n4": 4.0, "n5": 1.0},
}


@pytest.fixture(scope="module")
def trace() -> ExitTrace:
    shipped = load_experiment()
    return trace_of(shipped.model, load_card(shipped).identity, shipped.exits)[1]


def experiment(topology: str, **settings: Any) -> Experiment:
    devices = {name: {"profile": NANO, "speed": speed} for name, speed in UNEQUAL[topology].items()}
    return load_experiment("near-optimal", {"topology": topology, "devices": devices, **settings})


def basis(topology: str, trace: ExitTrace, memory: int | None = None, **settings: Any) -> Basis:
    wanted = experiment(topology, **settings)
    return basis_of(wanted, load_card(wanted), trace, memory)


def even_memory(judged: Basis) -> int:
    """What the largest slice of the even split takes."""
    return max(map(judged.size_bytes, even_split(judged.experiment.topology, 5).values()))


# ---- the search


@pytest.mark.parametrize("memory", [1_500_000, 7_000_000, 9_300_000])
def test_a_small_search_finds_what_trying_everything_finds(trace: ExitTrace, memory: int) -> None:
    judged = dataclasses.replace(basis("2-node", trace), memory_bytes={"n1": memory, "n2": 8_500_000})
    plan = find_plan(judged)
    choices = slices_that_fit(judged)
    rates = [
        judged.rate_per_s(dict(zip(choices, slices, strict=True)))
        for slices in itertools.product(*choices.values())
        if {k for s in slices for k in s} == set(range(1, 6))
    ]
    assert plan.exhaustive and plan.optimum.rate_per_s == pytest.approx(max(rates))
    assert all(judged.fits(worker, segments) for worker, segments in plan.hosted.items())


def test_a_local_search_comes_close_to_the_best(trace: ExitTrace, monkeypatch: pytest.MonkeyPatch) -> None:
    judged = basis("2-node", trace, 8_500_000)
    best = find_plan(judged)
    monkeypatch.setattr(planning, "EXHAUSTIVE_MAX", 1)
    found = find_plan(judged)
    assert best.exhaustive and not found.exhaustive
    assert found.optimum.rate_per_s >= 0.98 * best.optimum.rate_per_s


def test_a_local_search_is_bounded(trace: ExitTrace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "EXHAUSTIVE_MAX", 1)
    monkeypatch.setattr(planning, "LOCAL_MAX", 3)
    tried: list[int] = []
    plan = find_plan(basis("5-node-mesh", trace, 7_000_000), progress=tried.append)
    starts = 2 + 5  # as the even split, as auto, and one for each segment
    assert tried == list(range(1, plan.searched + 1)) and plan.searched <= starts + 3


def test_where_everything_fits_nothing_is_searched(trace: ExitTrace) -> None:
    plan = find_plan(basis("5-node-mesh", trace))
    assert plan.searched == 1 and plan.exhaustive and set(plan.hosted.values()) == {(1, 2, 3, 4, 5)}
    assert plan.optimum.rate_per_s == pytest.approx(plan.unlimited_per_s)


@pytest.mark.parametrize("tried_max", [planning.EXHAUSTIVE_MAX, 1])
def test_devices_measured_to_be_faster_with_less_host_less(
    trace: ExitTrace, tried_max: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "EXHAUSTIVE_MAX", tried_max)
    key = "mobilenet_v2@32"
    timed = DeviceProfile(
        "timed", 1 << 40, {key: (0.001,) * 5}, slice_s={key: {"1-5": 0.05, "1-2": 0.002, "3-5": 0.003}}
    )
    given = basis("2-node", trace, thresholds=1.0, links={"bandwidth": "1 Gbit/s", "latency_s": 0})
    devices = dict.fromkeys(("n1", "n2"), timed)
    judged = dataclasses.replace(given, experiment=dataclasses.replace(given.experiment, devices=devices))
    plan = find_plan(judged)
    assert judged.rate_per_s({"n1": (1, 2), "n2": (3, 4, 5)}) > 5 * plan.unlimited_per_s
    assert plan.optimum.rate_per_s >= judged.rate_per_s({"n1": (1, 2), "n2": (3, 4, 5)})
    of_another_model = dataclasses.replace(timed, slice_s={"resnet50@32": {"1-4": 1.0}})
    other = dataclasses.replace(given.experiment, devices=dict.fromkeys(("n1", "n2"), of_another_model))
    assert find_plan(dataclasses.replace(given, experiment=other)).searched == 1


@pytest.mark.parametrize("topology", UNEQUAL)
def test_with_speeds_4_times_apart_the_plan_beats_the_even_split_by_half(topology: str, trace: ExitTrace) -> None:
    judged = basis(topology, trace)
    within = dataclasses.replace(judged, memory_bytes=dict.fromkeys(judged.memory_bytes, even_memory(judged)))
    even_per_s = judged.rate_per_s(even_split(judged.experiment.topology, 5))
    assert find_plan(within).optimum.rate_per_s >= 1.5 * even_per_s > 0


def test_a_lean_plan_hosts_less_for_almost_the_same_rate(trace: ExitTrace) -> None:
    judged = basis("3-node-mesh", trace)
    full, lean = find_plan(judged), find_plan(judged, lean=True)
    hosted = [sum(map(len, plan.hosted.values())) for plan in (full, lean)]
    assert hosted[1] < hosted[0]
    assert lean.optimum.rate_per_s >= (1 - planning.LEAN_LOSS) * full.optimum.rate_per_s


def test_hand_made_slices_stay_also_in_a_lean_plan(trace: ExitTrace) -> None:
    judged = basis("3-node-mesh", trace, placement={"n2": "2-4"})
    assert judged.experiment.by_hand == ("n2",)
    for lean in (False, True):
        plan = find_plan(judged, lean)
        assert plan.hosted["n2"] == (2, 3, 4) and plan.by_hand == ("n2",)
    assert basis("3-node-mesh", trace, placement="all").experiment.by_hand == ()


@given(st.integers(1, 12), st.integers(1, 8))
def test_an_even_split_covers_everything_with_slices_of_nearly_the_same_length(workers: int, exits: int) -> None:
    names = tuple(f"n{i}" for i in range(workers))
    line = Topology("line", "n0", names, tuple(Link(a, b) for a, b in itertools.pairwise(names)))
    hosted = even_split(line, exits)
    segments = [k for name in names for k in hosted[name]]
    lengths = {len(part) for part in hosted.values()}
    assert sorted(set(segments)) == list(range(1, exits + 1)) and segments == sorted(segments)
    assert min(lengths) >= 1 and max(lengths) - min(lengths) <= 1


# ---- refusals


def test_a_worker_that_takes_no_slice_is_named_with_the_remedy(trace: ExitTrace) -> None:
    judged = basis("2-node", trace)
    with pytest.raises(PlanError, match=r"^n2: the smallest segment takes 87592 bytes.*--memory-max"):
        find_plan(dataclasses.replace(judged, memory_bytes={"n1": 10_000_000, "n2": 1_000}))


def test_a_slice_by_hand_that_does_not_fit_is_named_with_the_remedy(trace: ExitTrace) -> None:
    with pytest.raises(PlanError, match=r"^n2: its slice of 2 segments takes 8257196 bytes.*allowed: a smaller slice"):
        find_plan(basis("2-node", trace, 7_000_000, placement={"n2": "4-5"}))


def test_a_segment_that_fits_nowhere_is_named_with_the_remedy(trace: ExitTrace) -> None:
    with pytest.raises(
        PlanError, match=r"^segment 5 of 5, 6848604 bytes of weights, fits nowhere; allowed: more memory"
    ):
        find_plan(basis("2-node", trace, 6_000_000))


def test_a_worker_without_a_profile_is_refused(trace: ExitTrace) -> None:
    bare = load_experiment("near-optimal", {"devices": None, "topology": "2-node"})
    with pytest.raises(
        OptimumError, match=r"near-optimal.yaml: devices.n1: has no profile; allowed: one for every worker"
    ):
        find_plan(basis_of(bare, load_card(bare), trace))


# ---- what it promises


def test_a_preview_says_what_would_be_without_each_worker_and_with_one_alone(trace: ExitTrace) -> None:
    judged = basis("3-node-mesh", trace)
    content = preview(judged, find_plan(judged))
    pair = basis("2-node", trace)
    rates = {name: worker["without_per_s"] for name, worker in content["workers"].items()}
    assert rates["n1"] is None
    assert rates["n3"] == pytest.approx(find_plan(pair).optimum.rate_per_s)  # n1 and n2, four times as fast, are left
    alone = load_experiment("near-optimal", {"topology": "local"})
    one = basis_of(alone, load_card(alone), trace)
    assert content["alone"]["n1"] == pytest.approx(one.rate_per_s(one.whole()))
    assert content["best_alone"] == "n2" and not content["one_is_enough"]
    assert 0 < content["communication_share"] < 1
    assert content["rate_per_s"] == pytest.approx(content["compared"]["everything_everywhere"])


def test_where_links_are_too_slow_one_device_is_enough(trace: ExitTrace) -> None:
    judged = basis("2-node", trace, links={"bandwidth": "10 kbit/s"})
    content = preview(judged, find_plan(judged))
    assert content["one_is_enough"] and content["best_alone"] == "n1"
    assert any(line.startswith("One device is enough: n1 alone does") for line in in_words(content))


def test_the_network_alone_on_a_device_too_small_for_it_has_no_rate(trace: ExitTrace) -> None:
    judged = basis("3-node-mesh", trace, 8_500_000)
    content = preview(judged, find_plan(judged))
    assert content["alone"] == {"n1": None, "n2": None, "n3": None} and content["best_alone"] is None


def test_whole_slices_that_were_timed_count_more_than_their_parts(trace: ExitTrace) -> None:
    key, parts = "mobilenet_v2@32", (0.01, 0.02, 0.03, 0.02, 0.01)
    timed = DeviceProfile("timed", 1 << 40, {key: parts}, slice_s={key: {"2-3": 0.025, "5": 0.02}})
    assert timed.seconds("mobilenet_v2", 32) == timed.seconds("mobilenet_v2", 32, (1, 2)) == parts
    assert timed.seconds("mobilenet_v2", 32, (2, 3)) == pytest.approx((0.01, 0.01, 0.015, 0.02, 0.01))
    assert timed.faster(2).seconds("mobilenet_v2", 32, (5,)) == pytest.approx((0.005, 0.01, 0.015, 0.01, 0.01))
    given = basis("2-node", trace)
    slow = dataclasses.replace(given.experiment, devices=dict.fromkeys(("n1", "n2"), timed))
    problem = dataclasses.replace(given, experiment=slow).problem({"n1": (1, 2), "n2": (2, 3)})
    assert problem.compute_s[1, 1:3] == pytest.approx([0.01, 0.015])


# ---- the command


def test_the_command_writes_an_experiment_that_is_what_it_promises(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "graph.yaml").write_text("source: a\nworkers: [a, b]\nlinks: [[a, b]]\n", encoding="utf-8")
    (tmp_path / "own" / "slow.yaml").write_text(
        "memory_bytes: 8500000\nsegment_s: {mobilenet_v2@32: [0.02, 0.02, 0.02, 0.02, 0.02]}\n", encoding="utf-8"
    )
    (tmp_path / "own" / "mine.yaml").write_text(
        "topology: graph.yaml\ndevices: {a: slow.yaml, b: {profile: slow.yaml, speed: 4}}\nduration_s: 5\n",
        encoding="utf-8",
    )
    arguments = ("plan", "own/mine.yaml", "--set", "thresholds=0.9", "--out", "out/plan", "--json")
    done = mdi_exit(*arguments, folder=tmp_path)
    assert done.returncode == 0 and done.stderr == ""
    content = json.loads(done.stdout)
    written = load_experiment(tmp_path / "out" / "plan" / "plan.yaml")
    assert {w: list(s) for w, s in written.hosted.items()} == {w: d["slice"] for w, d in content["workers"].items()}
    assert written.by_hand == ("a", "b") and written.thresholds == (0.9,) * 4 and written.duration_s == 5
    assert written.policy_names()["offloading"] == "dual_backpressure"
    assert written.devices["b"] is not None and written.devices["b"].memory_bytes == 8_500_000
    assert max(len(segments) for segments in written.hosted.values()) < 5
    assert content["simulated"]["rate_per_s"] > 0.5 * content["rate_per_s"]
    kept = json.loads((tmp_path / "out" / "plan" / "plan.json").read_text(encoding="utf-8"))
    assert kept["rate_per_s"] == content["rate_per_s"]
    assert (tmp_path / "out" / "plan" / "plan.png").read_bytes().startswith(b"\x89PNG")


def test_own_rules_and_given_arrivals_are_kept(tmp_path: Path) -> None:
    for name, options, offloading in (
        ("find-threshold", (), "dual_backpressure"),
        ("find-threshold", ("--keep-rules",), "mdi_exit"),
    ):
        arguments = ("plan", name, "--no-check", *options, "--out", "p")
        assert mdi_exit(*arguments, folder=tmp_path).returncode == 0
        said = yaml.safe_load((tmp_path / "p" / "plan.yaml").read_text(encoding="utf-8"))
        written = load_experiment(tmp_path / "p" / "plan.yaml")
        assert written.policy_names()["offloading"] == offloading and written.arrivals is not None
        assert written.policy_names()["admission"] == "threshold_adaptation" and "simulated" not in said


@pytest.mark.parametrize(("rate_per_s", "told"), [(20, "offered 20/s, all answered"), (5_000, "offered 5000/s, ")])
def test_of_given_arrivals_is_told_how_many_were_answered(rate_per_s: int, told: str, tmp_path: Path) -> None:
    arguments = ("--set", f"arrivals.rate_per_s={rate_per_s}", "--set", "duration_s=2", "--out", "p")
    done = mdi_exit("plan", "noisy-channel", *arguments, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    (simulated,) = (line for line in done.stdout.splitlines() if line.startswith("Simulated: "))
    assert simulated.startswith(f"Simulated: {told}") and "of that" not in simulated
    run = json.loads((tmp_path / "p" / "plan.json").read_text(encoding="utf-8"))["simulated"]
    counts = f"{run['completed']} of {run['offered']} answered"
    assert counts in done.stdout if rate_per_s > 20 else run["completed"] == run["offered"] > 0


@pytest.mark.parametrize("name", ["calibrated-offloading", "noisy-channel"])
def test_what_the_exit_rule_hands_over_stays_its_own_choice(name: str, tmp_path: Path) -> None:
    done = mdi_exit("plan", name, "--no-check", "--out", "p", folder=tmp_path)
    assert done.returncode == 0 and "keeps offloading by_exit" in done.stdout, done.stderr
    given, written = load_experiment(name), load_experiment(tmp_path / "p" / "plan.yaml")
    assert written.policy_names() == given.policy_names() and written.exit == given.exit


def test_a_plan_that_would_not_load_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(planned, "RULES", {"offloading": "as_you_like", "admission": "fill_queue"})
    arguments = ("plan", "near-optimal", "--set", "topology=2-node", "--no-check", "--out", "p")
    line = refused(here(*arguments, folder=tmp_path, monkeypatch=monkeypatch, capsys=capsys))
    assert "as_you_like" in line and not list(tmp_path.rglob("plan.*"))


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("no-such-thing",), "no such file; allowed: an experiment's YAML file, or"),
        (
            ("near-optimal", "--set", "devices=other.yaml"),
            "says nothing of mobilenet_v2@32, which the experiment's model",
        ),
        (("near-optimal", "--memory-max", "1kB"), "n1: the smallest segment takes 87592 bytes"),
        (("near-optimal", "--memory-max", "7 apples"), "--memory-max: is '7 apples'; allowed: a size above 0, such as"),
        (("near-optimal", "--memory-max", "7 MB", "--set", "placement.n1=1-5"), "n1: its slice of 5 segments takes"),
        (("near-optimal", "--set", "devices=null"), "near-optimal.yaml: devices.n1: has no profile"),
        (("near-optimal", "--trace", "none.npz"), "none.npz"),
        (
            ("adaee",),
            "adaee.yaml: exit: learns as it runs who leaves where, so that no plan can count with it; allowed: t",
        ),
        (("splitee", "--keep-rules"), "splitee.yaml: exit: learns as it runs"),
    ],
)
def test_what_cannot_be_planned_is_one_line(
    arguments: tuple[str, ...],
    complaint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "other.yaml").write_text("memory_bytes: 1\nsegment_s: {resnet50@32: [1.0, 1.0, 1.0, 1.0]}\n")
    line = refused(here("plan", *arguments, folder=tmp_path, monkeypatch=monkeypatch, capsys=capsys))
    assert complaint in line
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("text", "size"), [("7 MB", 7_000_000), ("7MB", 7_000_000), ("0.5 GB", 5e8), ("7000000", 7e6)])
def test_sizes_are_written_as_people_write_them(text: str, size: float) -> None:
    assert planned.size_bytes(text) == size


def test_a_plan_warns_of_segments_beside_which_the_runtime_counts() -> None:
    """Until a profile says what the runtime takes."""
    shipped = load_experiment("near-optimal", {"topology": "2-node"})
    card, fast = load_card(shipped), {"mobilenet_v2@32": (0.001,) * 5}
    unknown = DeviceProfile("pc", 10**9, fast)
    known = dataclasses.replace(unknown, runtime=Overhead(0.001, 0.0005, 0.002))
    blind, told = (dataclasses.replace(shipped, devices={"n1": each, "n2": each}) for each in (unknown, known))
    assert "segments of n1 (1.0 ms), n2 (1.0 ms) are so short" in planned.cautions(blind, card)[0]
    assert planned.cautions(told, card) == planned.cautions(shipped, card) == []
