"""`mdi-exit demo`: both modes of MDI-Exit, one after the other, on three emulated Jetson Nanos.

First the thresholds are held and Algorithm 3 finds the rate. Then a rate above that is held and Algorithm 4 finds the
thresholds that make it possible.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdi_exit.cli import session
from mdi_exit.config import Experiment, load_experiment
from mdi_exit.report import Report, settled

if TYPE_CHECKING:
    from mdi_exit.runtime import Cluster

_FASTER = 1.25  # the second mode's rate over what the first one sustained


def first_experiment(seed: int, seconds: float) -> Experiment:
    """What the first mode runs: the shipped example find-rate."""
    return load_experiment("find-rate", {"name": "demo", "seed": seed, "duration_s": seconds})


def run_demo(cluster: Cluster, experiment: Experiment, folder: Path) -> Report:
    """Run both modes and return a report of both; of the first alone when it was interrupted. Journals, if any are
    kept, are in the folder."""
    held = f"thresholds held at {experiment.thresholds[0]:.2f}"
    title = f"1 of 2, {held}: which rate can be sustained?"
    rate_mode = session.carry_out(cluster, experiment, title, folder / "rate_mode")
    done = {"rate_mode": (held, rate_mode)}
    if not rate_mode["interrupted"]:
        rate_per_s = max(1, round(_FASTER * settled(rate_mode)["throughput_per_s"]))
        common: dict[str, Any] = {"name": "demo", "seed": experiment.seed, "duration_s": experiment.duration_s}
        second = load_experiment("find-threshold", {**common, "arrivals.rate_per_s": rate_per_s})
        forced = f"rate held at {rate_per_s}/s"
        title = f"2 of 2, {forced}: which threshold makes it possible?"
        threshold_mode = session.carry_out(cluster, second, title, folder / "threshold_mode", is_first=False)
        done["threshold_mode"] = (forced, threshold_mode)
    return session.combine(done)


def in_words(report: Report) -> list[str]:
    """What happened, and what to try next: three lines for whoever sees this for the first time."""
    if "threshold_mode" not in report:
        return []
    rate, threshold = settled(report["rate_mode"]), settled(report["threshold_mode"])
    mean = report["threshold_mode"]["threshold"]["mean"]
    sure = f"{100 * report['rate_mode']['thresholds'][0]:.0f} %"
    asked = 1 / report["threshold_mode"]["interarrival_s"]["final"]
    return [
        f"What happened: an image left at the first exit that was more than {sure} sure of it. Three devices then"
        f" sustained {rate['throughput_per_s']:.0f} images/s, {_percent(rate['accuracy'])} of the answers right.",
        f"Asked for {asked:.0f}/s, they let images leave when {_percent(mean)} sure, on average:"
        f" {threshold['throughput_per_s']:.0f} images/s, {_percent(threshold['accuracy'])} right.",
        "Try next: mdi-exit run find-rate --set thresholds=0.95 (more right, fewer per second?), or the same with"
        " --set topology=5-node-mesh (faster?), or mdi-exit run without-exits.",
    ]


def _percent(share: float | None) -> str:
    return "unknown" if share is None else f"{100 * share:.1f} %"
