"""What a reader of a run's tables must know beside them: troubles, pace, noise, who answered, what was learned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Report = Mapping[str, Any]
_PACE_MISSED_MAX = 0.01  # a run whose host missed the devices' pace more often is not what it says


def remarks(report: Report) -> list[str]:
    """All of it, a line each."""
    lines = [
        f"{count} {outcome}: {reason}"
        for outcome, reasons in report["reasons"].items()
        for reason, count in list(reasons.items())[:5]
    ]
    lines += _answered(report) + _noise(report) + _learned(report) + _pace(report)
    if report["interrupted"]:
        lines.append("The run was interrupted: these figures are of the part that was done.")
    return lines + list(report.get("notes", ()))


def _answered(report: Report) -> list[str]:
    """Who answered, where the exit rule makes a difference between device and server."""
    if not report.get("split") and report.get("policies", {}).get("offloading") != "by_exit":
        return []
    earlier, share = report.get("earlier_verdicts") or 0, report["edge_share"]
    rest = f"; by the verdict of an earlier exit than the last one computed: {earlier}" if earlier else ""
    return [f"Answered by the source itself: {'-' if share is None else f'{100 * share:.1f} %'}{rest}"]


def _noise(report: Report) -> list[str]:
    """Over which channel features went, and how many of them, where a rule decides that."""
    experiment = report.get("experiment", {})
    noisy: dict[str, list[str]] = {}  # what a channel is like: its links
    for link in experiment.get("topology", {}).get("links", ()):
        if link.get("snr_db") is not None:
            fading = "" if link["fading"] == "none" else f", {link['fading'].capitalize()} fading"
            noisy.setdefault(f"{link['snr_db']:g} dB{fading}", []).append(link["label"])
    lines = [f"Analog link, SNR {channel}: {', '.join(labels)}" for channel, labels in noisy.items()]
    rule, answers = experiment.get("exit", {}), sum(report["exits"])
    if rule.get("rule") == "transmission" and answers:
        sent = sum(report["exits"][rule["cut"] :])
        lines.append(f"Transmitted to the far side: {100 * sent / answers:.1f} % of what was answered")
    return lines


def _learned(report: Report) -> list[str]:
    """What a bandit chose."""
    split = report.get("split")
    if not split:
        return []
    rule = report["experiment"]["exit"]
    if rule["rule"] == "adaee":
        what, arms = f"the threshold of exit {rule['branch']}", [f"{arm:g}" for arm in rule["thresholds"]]
    else:
        what, arms = "after which exit to cut", [str(arm) for arm in range(1, len(split["arms"]) + 1)]
    chosen = ", ".join(f"{arm} for {count}" for arm, count in zip(arms, split["arms"], strict=True))
    mean = "" if rule["rule"] == "adaee" or split["mean_cut"] is None else f", {split['mean_cut']:.1f} on average"
    return [
        f"Chosen by the bandit, {what}: {chosen} of the answers{mean}. Summed over them, in units of confidence: cost "
        f"of computing and offloading {split['cost']:.1f}, reward {split['reward']:.1f}."
    ]


def _pace(report: Report) -> list[str]:
    """Where the machine was slower than the devices that it emulates, and what that does to the figures."""
    missed = {name: row["pace_missed"] for name, row in report["workers"].items() if row["pace_missed"] is not None}
    worst = max(missed, key=missed.__getitem__, default="")
    if not worst or missed[worst] <= _PACE_MISSED_MAX:
        return []
    wrong = "latencies may be too long, and queues" if report.get("arrivals") else "the rates may be too low"
    return [
        f"This machine was too slow for the devices that it emulates, most of all for {worst}, in "
        f"{100 * missed[worst]:.1f} % of its computations: {wrong}."
    ]
