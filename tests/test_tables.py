"""What a run looks like: closing tables as golden texts, live progress on a terminal and off it, figures.

`pytest tests/test_tables.py --rewrite` writes the golden texts anew.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from rich.console import Console

from mdi_exit.analysis import over_time, plots
from mdi_exit.cli import session, tour, virtual
from mdi_exit.cli.live import LiveDisplay
from mdi_exit.cli.remarks import remarks
from mdi_exit.cli.tables import exits, plain_console, show, summary
from mdi_exit.runtime.record import PHASES, Progress
from mdi_exit.snapshots import NodeSnapshot, SourceSnapshot

from .recorded import record

GOLDEN = Path(__file__).parent / "golden"


def worker(done: int, **changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "slice": [1, 2, 3],
        "processed": done,
        "offloaded": 40,
        "received": 7,
        "input_queue_mean": 12.34,
        "output_queue_mean": 0.5,
        "compute_delay_s": 0.0078,
        "utilization": 0.987,
        "rss_bytes": 210 << 20,
        "pace_missed": 0.0,
    }
    return {**row, **changes}


OPTIMUM: dict[str, Any] = {  # of `report`'s
    "rate_per_s": 134.0,
    "answered_per_s": 131.0,
    "answered_over": "second half",
    "ratio": 0.978,
    "binding": "worker n1 (60%), window n1->n2 (40%)",
    "bottlenecks": [],
    "why": "",
    "notes": ["The bound takes the mean of a bandwidth_trace (n1-n2): it knows nothing of what waits while it is low."],
    "fixed_rate": None,
}
NO_RATE: dict[str, Any] = {
    "rate_per_s": None,
    "ratio": None,
    "binding": "",
    "notes": [],
    "why": "admission pi_control changed them",
}


def report(**changes: Any) -> dict[str, Any]:
    content: dict[str, Any] = {
        "throughput_per_s": 118.2,
        "arrivals": None,
        "steady": {
            "throughput_per_s": 131.0,
            "offered_per_s": 133.5,
            "accuracy": 0.7312,
            "completed": 1310,
            "threshold": 0.8,
        },
        "accuracy": 0.7298,
        "accuracy_offered": 0.7298,
        "threshold": {"mean": 0.8, "final": 0.8},
        "interarrival_s": {"mean": 0.0093, "final": 0.0076},
        "latency_s": {"mean": 0.4, "p50": 0.287, "p95": 1.345, "p99": 1.9},
        "offered": 2400,
        "completed": 2400,
        "shed": 0,
        "failed": 0,
        "lost": 0,
        "resubmitted": 0,
        "duplicates": 0,
        "duration_s": 20.0,
        "drain_s": 0.71,
        "exits": [1200, 600, 600],
        "exit_accuracy": [0.57, 0.686, None],
        "workers": {"n1": worker(3325), "n2": worker(214, slice=[3], rss_bytes=None, utilization=0.5)},
        "links": {
            "n1-n2": {"tasks": 1403, "bytes": 14_080_000, "transfer_delay_s": 0.0082, "refused": 0, "undelivered": 1}
        },
        "reasons": {},
        "interrupted": False,
        "thresholds": [0.8, 0.8],
    }
    return {**content, **changes}


TROUBLED = report(
    accuracy=None,
    steady=None,
    offered=2450,
    completed=2400,
    shed=45,
    failed=4,
    resubmitted=12,
    duplicates=3,
    lost=1,
    latency_s={"p50": None, "p95": None, "p99": None},
    workers={"n1": worker(10, pace_missed=0.07), "n2": worker(0, compute_delay_s=None, input_queue_mean=None)},
    links={},
    reasons={"failed": {"cat/[7].png: not an image": 4}, "lost": {"no answer by the end of the run": 1}},
    interrupted=True,
    notes=["n2 was lost after 3.2 s", "n2 is back after 4.9 s"],
)


@pytest.mark.parametrize(
    ("name", "reports"),
    [
        ("one-run", {"find-rate": report()}),
        ("side-by-side", {"thresholds held at 0.80": report(), "rate held at 164/s": report(accuracy=0.6912)}),
        ("troubled", {"find-rate": TROUBLED}),
        ("beside-the-best", {"held": report(optimum=OPTIMUM), "adapted": report(optimum={**OPTIMUM, **NO_RATE})}),
    ],
)
def test_the_tables_look_as_written(name: str, reports: dict[str, Any], request: pytest.FixtureRequest) -> None:
    console = plain_console(file=io.StringIO())
    show(reports, console)
    drawn = "".join(f"{line.rstrip()}\n" for line in console.file.getvalue().splitlines())  # type: ignore[attr-defined]
    path = GOLDEN / f"{name}.txt"
    if request.config.getoption("--rewrite"):
        path.write_text(drawn, encoding="utf-8")
    assert drawn == path.read_text(encoding="utf-8")
    assert "…" not in drawn and "\x1b" not in drawn


def test_runs_over_many_seeds_are_one_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As wide as one, also when `mdi-exit report` shows them again; and what is to be known of each run is said."""
    first = record("find-threshold", 3.0).report()
    runs = [{**first, "optimum": {**OPTIMUM, **NO_RATE}, "completed": 300 + seed} for seed in range(10)]
    runs[7]["notes"] = ["n2 was lost"]
    content = session.combine({f"seed_{seed}": (f"seed {seed}", run) for seed, run in enumerate(runs)})
    session.show({**content, "spread": virtual.spread(runs)}, False, [])
    said = capsys.readouterr().out
    assert "Over 10 seeds" in said and "answers per second, all of the run" in said and "latency, mean" in said
    assert "_" not in said.replace("pi_control", ""), "a name of the report's is shown"
    assert "of those" not in said, "a row of zeros is shown"
    assert said.count("No highest possible rate is shown: admission pi_control") == 1 and "seed 7: n2 was lost" in said
    session.draw({**content, "spread": virtual.spread(runs)}, tmp_path / "many")
    session.draw(first, tmp_path / "one")
    for name in ("throughput-accuracy", "time-series"):
        with Image.open(tmp_path / "many" / f"{name}.png") as many, Image.open(tmp_path / "one" / f"{name}.png") as one:
            assert many.size == one.size
    assert "10 seeds" in (tmp_path / "many" / "time-series.svg").read_text(encoding="utf-8")


def test_the_tables_fit_a_narrow_terminal() -> None:
    console = Console(width=80, file=io.StringIO(), force_terminal=True)
    show({"find-rate": report()}, console)
    assert "…" not in console.file.getvalue()  # type: ignore[attr-defined]
    wide = plain_console(width=200, file=io.StringIO())
    for table in (summary, exits):
        wide.print(table({"thresholds held at 0.80, ours": report(), "thresholds held at 0.80, paper's": report()}))
    assert max(map(len, wide.file.getvalue().splitlines())) <= 80  # type: ignore[attr-defined]


def test_who_was_too_slow_is_named_and_what_that_does_to_the_figures() -> None:
    slow = {"n1": worker(10, pace_missed=0.02), "n2": worker(10, pace_missed=0.07)}
    (found,), (given,) = (remarks(report(workers=slow, arrivals=arrivals)) for arrivals in (None, "poisson"))
    assert "most of all for n2, in 7.0 % of its computations: the rates may be too low" in found
    assert given.endswith("latencies may be too long, and queues.")
    assert remarks(report()) == []


def test_a_rule_with_thresholds_of_its_own_shows_no_others() -> None:
    for rule, row in (
        ({"rule": "threshold"}, {"exit threshold, mean / at the end": "0.80 / 0.80"}),
        ({"rule": "splitee", "threshold": 0.85}, {"exit threshold, the rule's own": "0.85"}),
        ({"rule": "transmission", "cut": 1}, {}),
    ):
        column = summary({"a run": report(experiment={"exit": rule})})
        labels, cells = (list(each.cells) for each in column.columns)
        assert {a: b for a, b in zip(labels, cells, strict=True) if "threshold" in str(a)} == row


def source(completed: int, threshold: float | None = None) -> SourceSnapshot:
    outcomes = {"completed": completed, "shed": 0, "failed": 0, "lost": 0}
    accuracy = 0.75 if completed else None
    return SourceSnapshot(completed + 5, completed + 5, outcomes, (3, 1, 0), accuracy, 12.0, 0.1, threshold, 0.0, None)


def progress(phase: str, elapsed_s: float, completed: int = 0, lost: tuple[str, ...] = ()) -> Progress:
    if phase not in ("run", "drain"):
        return Progress(phase, elapsed_s, 0.0)
    nodes = {
        "n1": NodeSnapshot("n1", 0, elapsed_s, 4, 2, 9, 3, 1, 0.5, source(completed, 0.8)),
        "n2": NodeSnapshot("n2", 0, elapsed_s, 1, 0, 4, 1, 3, 0.25, None),
    }
    return Progress(phase, elapsed_s, 20 - elapsed_s, nodes, lost)


def test_progress_off_a_terminal_is_plain_lines() -> None:
    stream = io.StringIO()
    with LiveDisplay("a run", 20.0, Console(file=stream)) as display:
        for number, phase in enumerate(PHASES):
            for tenth in range(40):
                display(progress(phase, 4 * number + tenth / 10, completed=tenth if phase == "run" else 0))
    text = stream.getvalue()
    assert all(character == "\n" or character.isprintable() for character in text)
    lines = text.splitlines()
    assert lines[0] == "a run" and 8 < len(lines) < 20  # a line every two seconds, and one per phase
    answered = next(line for line in lines if "answered" in line)
    for part in ("12/s", "threshold 0.80", "n1 4+2", "n2 1+0", "s left"):
        assert part in answered
    assert display.first_result_s is not None and display.first_result_s > 0
    assert sum("the first answer" in line for line in lines) == 1


def test_progress_on_a_terminal_is_redrawn_and_taken_away() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=90, height=30)
    with LiveDisplay("a run", 20.0, console) as display:
        for phase in PHASES:
            display(progress(phase, 3.0, completed=12, lost=("n2",)))
    text = stream.getvalue()
    for part in ("a run", "exit 1", "75 %", "worker", "input queue", "down: n2", "\x1b[2K"):
        assert part in text


def test_without_an_answer_there_is_no_first_result() -> None:
    with LiveDisplay("a run", 20.0, Console(file=io.StringIO())) as display:
        display(progress("run", 1.0))
    assert display.first_result_s is None


# ---- figures


def test_figures_are_drawn_twice_alike_as_png_and_svg(tmp_path: Path) -> None:
    made = {"rate": record("find-rate", 5.0).report(), "threshold": record("find-threshold", 5.0).report()}
    for folder in ("once", "again"):
        plots.throughput_accuracy(made, tmp_path / folder)
        over_time.time_series(made, tmp_path / folder)
    for name in ("throughput-accuracy", "time-series"):
        again = (tmp_path / "again" / f"{name}.svg").read_bytes()
        assert (tmp_path / "once" / f"{name}.svg").read_bytes() == again
        for words in ("rate", "threshold"):
            assert words.encode() in again
        with Image.open(tmp_path / "once" / f"{name}.png") as image:
            pixels = np.asarray(image.convert("L"))
        assert min(pixels.shape) > 500 and 0.005 < (pixels < 200).mean() < 0.6  # something is drawn, not everything


def test_no_title_reaches_over_its_axes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    saving = plots.save

    def keep(figure: Figure, folder: Path, name: str) -> list[Path]:
        drawn.append(figure)
        return saving(figure, folder, name)

    monkeypatch.setattr(plots, "save", keep)
    plots.throughput_accuracy({"a run": record("find-rate", 5.0).report()}, tmp_path)
    drawn[0].canvas.draw()
    assert len(drawn[0].axes) == 2
    for axes in drawn[0].axes:
        (title,) = [text for text in axes.findobj(Text) if text.get_text() == axes.get_title(loc="left")]
        assert 0 < title.get_window_extent().width < axes.bbox.width


def test_what_was_offered_and_a_queue_that_stays_empty_are_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(over_time, "save", lambda figure, folder, name: drawn.append(figure))
    made = record("hold-latency", 5.0).report()
    assert set(made["series"]["output_queue"]) <= {0, None}
    over_time.time_series({"a run": made}, tmp_path)
    rates, _, latencies, queues = drawn[0].axes
    lines = {axes: {line.get_label(): line for line in axes.get_lines()} for axes in drawn[0].axes}
    empty = lines[queues]["output $O_s$"]
    assert not empty.get_clip_on() and empty.get_zorder() > 2.5, "it lies below its axis, or is cut off by it"
    assert {"mean", "target"} == set(lines[latencies])
    offered = np.asarray(lines[rates]["offered"].get_ydata(), dtype=float)
    assert np.nanstd(offered) > 0, "that is the mean of the process, not what came"


@pytest.mark.parametrize("until_s", [0.05, 0.6])
def test_a_run_of_a_moment_has_figures_too(until_s: float, tmp_path: Path) -> None:
    report = record("find-rate", until_s, close=False).report()
    session.conclude(report, tmp_path)
    assert len(list(tmp_path.glob("*.png"))) == len(list(tmp_path.glob("*.svg"))) == 2


# ---- several runs in one report


def test_a_report_of_both_modes_has_the_keys_of_the_first_on_top(tmp_path: Path) -> None:
    rate, threshold = record("find-rate", 5.0).report(), record("find-threshold", 5.0).report()
    both = session.combine({"rate_mode": ("held", rate), "threshold_mode": ("forced", threshold)})
    assert both["rate_mode"] == rate and both["threshold_mode"] == threshold
    assert {key: both[key] for key in rate} == rate
    assert list(session.parts(both)) == ["held", "forced"] and session.parts(rate) == {"find-rate": rate}
    cut = session.combine({"a": ("a", rate), "b": ("b", {**threshold, "interrupted": True})})
    assert cut["interrupted"] and not both["interrupted"]


def test_the_demo_says_what_happened_and_what_to_try() -> None:
    rate, threshold = record("find-rate", 5.0).report(), record("find-threshold", 5.0).report()
    runs = {key: (key, rate) for key in ("rate_mode", "rate_mode_paper")}
    runs |= {key: (key, threshold) for key in ("threshold_mode", "threshold_mode_paper")}
    lines = tour.in_words(session.combine(runs))
    assert (
        len(lines) == 3
        and "80 % sure" in lines[0]
        and "/s, they let images leave" in lines[1]
        and "Try next" in lines[2]
    )
    assert f"{rate['steady']['throughput_per_s']:.0f} images/s" in lines[0]
    assert tour.in_words(session.combine({"rate_mode": ("held", rate)})) == [] == tour.in_words(rate)
