"""`mdi-exit demo`: both modes of MDI-Exit on three emulated Jetson Nanos, with our rules and with the paper's.

First the thresholds are held and the rate is found: with the default rules, then with Algorithms 1 to 3. Then a rate
above that is held and the thresholds that make it possible are found: by the PI rule, then by Algorithm 4.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdi_exit.cli import session
from mdi_exit.config import Experiment
from mdi_exit.config.load import load_experiment
from mdi_exit.policies import presets
from mdi_exit.report import Report, settled

if TYPE_CHECKING:
    from mdi_exit.runtime import Cluster

_FASTER = 1.25  # the second mode's rate over what the first one sustained
_THREE: Mapping[str, Any] = {"name": "demo", "topology": "3-node-mesh"}
_OURS, _PAPERS = "ours", "paper's"
_PI: Mapping[str, Any] = {"offloading": "dual_backpressure", "admission": "pi_control"}


def first_experiment(seed: int, seconds: float) -> Experiment:
    """What is run first: the shipped example near-optimal, on three workers."""
    return load_experiment("near-optimal", {**_THREE, "seed": seed, "duration_s": seconds})


def run_demo(cluster: Cluster, experiment: Experiment, folder: Path) -> Report:
    """Run both modes with both sets of rules and return a report of all; of those done when it was interrupted.

    Journals, if any are kept, are in the folder.
    """
    done: dict[str, tuple[str, Report]] = {}
    common = {**_THREE, "seed": experiment.seed, "duration_s": experiment.duration_s}

    def carry_out(key: str, asked: Experiment, question: str, rules: str, called: str) -> bool:
        title = f"{len(done) + 1} of 4, {question} ({rules})"
        report = session.carry_out(cluster, asked, title, folder / key, is_first=not done)
        done[key] = (f"{called}, {rules}", report)
        return not report["interrupted"]

    held = f"thresholds held at {experiment.thresholds[0]:.2f}"
    question = f"{held}: which rate can be sustained?"
    paper = load_experiment("find-rate", {**common, **presets.REPAIRED_RATE})
    if carry_out("rate_mode", experiment, question, _OURS, held) and carry_out(
        "rate_mode_paper", paper, question, _PAPERS, held
    ):
        rate_per_s = max(1, round(_FASTER * settled(done["rate_mode"][1])["throughput_per_s"]))
        forced = f"rate held at {rate_per_s}/s"
        question = f"{forced}: which threshold makes it possible?"
        common["arrivals.rate_per_s"] = rate_per_s
        ours = load_experiment("find-threshold", {**common, **_PI})
        paper = load_experiment("find-threshold", {**common, **presets.REPAIRED_THRESHOLD})
        if carry_out("threshold_mode", ours, question, _OURS, forced):
            carry_out("threshold_mode_paper", paper, question, _PAPERS, forced)
    return session.combine(done)


def in_words(report: Report) -> list[str]:
    """What happened, and what to try next, for whoever sees this for the first time."""
    if "threshold_mode_paper" not in report:
        return []
    rate, threshold = settled(report["rate_mode"]), settled(report["threshold_mode"])
    mean = report["threshold_mode"]["threshold"]["mean"]
    sure = f"{100 * report['rate_mode']['thresholds'][0]:.0f} %"
    asked = report["threshold_mode"]["offered"] / report["threshold_mode"]["duration_s"]
    papers_rate, papers_threshold = (settled(report[f"{mode}_paper"]) for mode in ("rate_mode", "threshold_mode"))
    program = _program()
    p99_s, papers_p99_s = (report[key]["latency_s"]["p99"] for key in ("rate_mode", "rate_mode_paper"))
    return [
        f"What happened: an image left at the first exit that was more than {sure} sure of it. Three devices then"
        f" sustained {rate['throughput_per_s']:.0f} images/s, {_percent(rate['accuracy'])} of the answers right;"
        f" with the paper's rules {papers_rate['throughput_per_s']:.0f}, {_percent(papers_rate['accuracy'])}."
        f" One answer in a hundred took longer than {_seconds(p99_s)}; with the paper's, {_seconds(papers_p99_s)}.",
        f"Offered {asked:.0f}/s, they let images leave when {_percent(mean)} sure, on average:"
        f" {threshold['throughput_per_s']:.0f} images/s, {_percent(threshold['accuracy'])} right; with the paper's rule"
        f" {papers_threshold['throughput_per_s']:.0f}, {_percent(papers_threshold['accuracy'])}.",
        f"Try next: {program} run near-optimal --set topology=3-node-mesh --set thresholds=0.95 (more right, fewer per"
        f" second?), {program} run without-exits --set topology=3-node-mesh, or {program} simulate near-optimal (how"
        " far from the best that is possible?).",
    ]


def _program() -> str:
    """How this program can be called from here: after `make demo` it is not on the path."""
    there = Path(sys.argv[0])
    return "mdi-exit" if shutil.which("mdi-exit") or there.name != "mdi-exit" else os.path.relpath(there)


def _seconds(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1f} s"


def _percent(share: float | None) -> str:
    return "unknown" if share is None else f"{100 * share:.1f} %"
