"""Does a bandit find where to split a network, without labels? SplitEE and others on recorded confidences.

Two recordings: a 12-exit text transformer on SST-2, and the shipped MobileNetV2 on CIFAR-10. Each algorithm meets the
test samples in shuffled orders. Accuracy and reported cost against the cost of offloading; the regret, how it compares
with drawing the splitting layer, and whether it grows like a logarithm. Thresholds are chosen on development data.

`--train DATA` (a folder with train.tsv, dev.tsv, test.tsv) makes the recordings of the text network anew instead; with
`--out FOLDER`, by default benchmarks/data/text_transformer. See docs/splitee.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import random
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from harness import Options, conclude, main, options, side_by_side, table
from recordings import BACKBONES, COSTS, DATA, recorded
from scipy.stats import t as student

from mdi_exit.analysis import plots
from mdi_exit.policies.bandit import AdaEE, Bandit, Rule, SplitEE, SplitEES, replay
from mdi_exit.policies.splitting import FinalExit, FirstConfident, FixedSplit, RandomSplit, best_split

QUICK_COSTS = (0.1, 0.5)  # of COSTS
MAIN_COST = 0.5  # of the regret and of the goals, as in the papers
# Of the long runs over the test data, reshuffled each time. A bandit plays an arm that is worse by D about ln(t) / D^2
# times, and grows like a logarithm only after that: 10,000 samples where the second best is worse by 0.03.
PASSES = 100
CURVE_FROM = 50  # samples; before, the bandits still play every arm
Row = dict[str, Any]

BANDITS: Mapping[str, Bandit] = {
    "SplitEE": SplitEE(),
    "SplitEE-S": SplitEES(),
    "SplitEE-S, C_L as last seen": SplitEES(unseen="last_seen"),
    "SplitEE-S, C_L skipped": SplitEES(unseen="skip"),
    "SplitEE, clock restarted": SplitEE(clock="restart"),
    "SplitEE-S, clock restarted": SplitEES(clock="restart"),
}
SWEPT = ("final exit", "first confident", "random split", "best split", "AdaEE", "SplitEE", "SplitEE-S",
         "SplitEE-S, C_L as last seen")  # fmt: skip
LONG = ("random split", "SplitEE", "SplitEE-S", "SplitEE-S, C_L as last seen")
COLOURS = dict(zip(SWEPT, (plots.BLACK, plots.YELLOW, plots.PINK, plots.GREEN, plots.SKY, plots.BLUE, plots.RED,
                           plots.ORANGE), strict=True))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Case:
    """An algorithm on a recording, in some shuffled orders."""

    backbone: str
    offload_cost: float
    algorithm: str
    shuffles: int
    passes: int
    seed: int


def measure(case: Case) -> Row:
    """All shuffles of a case, as a row of results.json: means with half of their 95 % interval."""
    rows, right, setting, development = recorded(case.backbone)
    setting = dataclasses.replace(setting, offload_cost=case.offload_cost)
    rules: Mapping[str, Callable[[], Bandit | Rule]] = {
        "final exit": FinalExit,
        "first confident": FirstConfident,
        "random split": RandomSplit,
        "best split": lambda: FixedSplit(best_split(setting, rows)),
        "AdaEE": lambda: AdaEE(min(best_split(setting, development), setting.exits - 1)),
    }
    algorithm = BANDITS[case.algorithm] if case.algorithm in BANDITS else rules[case.algorithm]()
    done: list[dict[str, float]] = []
    curves = []
    for number in range(case.shuffles):
        rng = random.Random(f"{case.seed} {number}")  # every algorithm meets the same orders
        order = [at for _ in range(case.passes) for at in rng.sample(range(len(rows)), len(rows))]
        one = replay(algorithm, rows, right, setting, rng, order)
        offloaded = statistics.fmean(play.offloaded for play in one.plays)
        done.append({"accuracy": one.accuracy or 0.0, "cost": one.cost, "reward": one.reward, "offloaded": offloaded})
        if one.regret is not None:
            done[-1] |= {"regret": one.regret[-1], "best_arm": one.best_arm}
            curves.append([one.regret[time - 1] for time in times(len(order))])
    row: Row = {**dataclasses.asdict(case), "threshold": setting.threshold, "samples": len(rows)}
    for key in done[0]:
        row[key], row[f"{key}_half"] = interval([one[key] for one in done])
    if case.passes > 1:
        means = [interval(values) for values in zip(*curves, strict=True)]
        row["regret_mean"], row["regret_around"] = [list(values) for values in zip(*means, strict=True)]
        row["t"] = times(case.passes * len(rows))
    return row


def times(last: int) -> list[int]:
    """Numbers of samples after which the regret is noted, spread evenly on a logarithmic axis."""
    return sorted({round(math.exp(at)) for at in np.linspace(math.log(min(CURVE_FROM, last)), math.log(last), 60)})


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half of the 95 % t-interval; 0 of a single value, whose spread is not known."""
    if len(values) < 2:
        return values[0], 0.0
    wide = float(student.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return statistics.fmean(values), wide


def fits(row: Row, since: float = 0.0) -> dict[str, float]:
    """R squared of a + b f(t) fitted to a long run's regret from t = `since` on, f = ln, the square root, t itself."""
    at, means = np.array(row["t"], float), np.array(row["regret_mean"])
    at, means = at[at >= since], means[at >= since]
    found = {}
    for name, values in (("log", np.log(at)), ("root", np.sqrt(at)), ("linear", at)):
        left = means - np.polyval(np.polyfit(values, means, 1), values)
        found[name] = 1.0 - float((left**2).sum() / max(((means - means.mean()) ** 2).sum(), 1e-12))
    return found


def cases_of(chosen: Options) -> list[Case]:
    """Every case of the benchmark; the quick form has fewer costs and shorter long runs."""
    found = []
    for name in BACKBONES:
        common = (chosen.repetitions, 1, chosen.seed)
        for cost in QUICK_COSTS if chosen.quick else COSTS:
            others = [rule for rule in BANDITS if rule not in SWEPT] if cost == MAIN_COST else []
            found += [Case(name, cost, rule, *common) for rule in (*SWEPT, *others)]
        passes = 2 if chosen.quick else PASSES
        found += [Case(name, MAIN_COST, rule, chosen.repetitions, passes, chosen.seed) for rule in LONG]
    return found


# ---- what it amounts to


def _row(rows: Sequence[Row], backbone: str, algorithm: str, cost: float = MAIN_COST, long: bool = False) -> Row:
    return next(
        row
        for row in rows
        if (row["backbone"], row["algorithm"], row["offload_cost"]) == (backbone, algorithm, cost)
        and (row["passes"] > 1) == long
    )


def summarise(rows: Sequence[Row]) -> dict[str, float]:
    """The numbers that are the benchmark's answer: of SplitEE at MAIN_COST, the worse of the two recordings."""
    summary: dict[str, float] = {}
    for name in BACKBONES:
        final, drawn = _row(rows, name, "final exit"), _row(rows, name, "random split")
        for algorithm, key in (("SplitEE", "splitee"), ("SplitEE-S", "splitee_s")):
            row, long = _row(rows, name, algorithm), _row(rows, name, algorithm, long=True)
            summary[f"{name}_{key}_cost_cut"] = 1 - row["cost"] / final["cost"]
            summary[f"{name}_{key}_accuracy_drop_points"] = 100 * (final["accuracy"] - row["accuracy"])
            summary[f"{name}_{key}_regret_ratio_to_random"] = row["regret"] / drawn["regret"]
            summary |= {f"{name}_{key}_{fit}_fit_r2": value for fit, value in fits(long).items()}
            late = fits(long, since=long["t"][-1] / 10)
            summary |= {f"{name}_{key}_{fit}_fit_last_decade_r2": value for fit, value in late.items()}
        regret, cost = (_row(rows, name, "SplitEE")[key] for key in ("regret", "cost"))
        setting = recorded(name)[2]  # had the final exit been the only one, no other would have been evaluated
        summary[f"{name}_splitee_cost_cut_one_head"] = 1 - cost / setting.cost(setting.exits, 1, False)
        summary[f"{name}_splitee_s_regret_ratio"] = _row(rows, name, "SplitEE-S")["regret"] / regret
        seen = _row(rows, name, "SplitEE-S, C_L as last seen")["regret"]
        summary[f"{name}_splitee_s_last_seen_regret_ratio"] = seen / regret
        summary[f"{name}_threshold"] = final["threshold"]
        summary[f"{name}_final_accuracy"] = final["accuracy"]
    summary["cost_cut"] = min(summary[f"{name}_splitee_cost_cut"] for name in BACKBONES)
    for key in ("accuracy_drop_points", "regret_ratio_to_random"):
        summary[key] = max(summary[f"{name}_splitee_{key}"] for name in BACKBONES)
    summary["splitee_s_regret_ratio"] = max(summary[f"{name}_splitee_s_regret_ratio"] for name in BACKBONES)
    return summary


def show(rows: Sequence[Row], summary: Mapping[str, float]) -> None:
    """Print the tables, and which goals are met."""
    for name in BACKBONES:
        mine = [row for row in rows if row["backbone"] == name and row["passes"] == 1]
        print(
            f"\n{name}: {mine[0]['samples']} samples, threshold {mine[0]['threshold']}, {mine[0]['shuffles']} shuffles"
        )
        lines = []
        for row in mine:
            regret = f"{row['regret']:.1f} ± {row['regret_half']:.1f}" if "regret" in row else "-"
            lines.append([row["algorithm"], f"{row['offload_cost']:.1f}", f"{100 * row['accuracy']:.2f} %",
                          f"{row['cost']:.3f}", f"{100 * row['offloaded']:.0f} %", regret])  # fmt: skip
        table(["algorithm", "o", "accuracy", "cost", "offloaded", "regret"], lines)
    goals = (
        ("cost cut above 50 %", summary["cost_cut"] > 0.5, f"{100 * summary['cost_cut']:.1f} %"),
        ("accuracy drop below 2 points", summary["accuracy_drop_points"] < 2, f"{summary['accuracy_drop_points']:.2f}"),
        ("SplitEE-S regrets less", summary["splitee_s_regret_ratio"] < 1, f"{summary['splitee_s_regret_ratio']:.2f}"),
    )
    print(f"\nSplitEE at o = {MAIN_COST}, the worse of the recordings; AdaEE's regret is among thresholds, not splits.")
    for goal, met, figure in goals:
        print(f"{goal}: {'met' if met else 'NOT MET'}, {figure}")


def draw_costs(rows: Sequence[Row]) -> Any:
    """Accuracy and cost against the cost of offloading."""
    with plots.style():
        figure = plots.new_figure(10.5, 7)
        grid = figure.subplots(2, 2, sharex=True)
        for name, column in zip(BACKBONES, grid.T, strict=True):
            for key, factor, axes in (("accuracy", 100, column[0]), ("cost", 1, column[1])):
                for rule in SWEPT:
                    mine = [r for r in rows if (r["backbone"], r["algorithm"], r["passes"]) == (name, rule, 1)]
                    at, means = [r["offload_cost"] for r in mine], [factor * r[key] for r in mine]
                    half = [factor * r[f"{key}_half"] for r in mine]
                    axes.errorbar(at, means, half, label=rule, color=COLOURS[rule], marker="o", markersize=3)
            column[0].set_title(name, loc="left")
            column[1].set_xlabel("cost of offloading, o")
        grid[0, 0].set_ylabel("accuracy (%)")
        grid[1, 0].set_ylabel("reported cost per sample")
        grid[0, 1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=9)
    return figure


def draw_regret(rows: Sequence[Row]) -> Any:
    """Cumulative regret over many passes with its 95 % interval, and a + b ln t fitted to where it should hold."""
    with plots.style():
        figure = plots.new_figure(10.5, 4.4)
        for name, axes in zip(BACKBONES, figure.subplots(1, 2), strict=True):
            for rule in LONG:
                row = _row(rows, name, rule, long=True)
                at, means, half = (np.array(row[key]) for key in ("t", "regret_mean", "regret_around"))
                axes.plot(at, means, color=COLOURS[rule], label=rule)
                axes.fill_between(at, means - half, means + half, color=COLOURS[rule], alpha=0.25, linewidth=0)
                if rule.startswith("SplitEE"):
                    late = at >= at[-1] / 10
                    slope, start = np.polyfit(np.log(at[late]), means[late], 1)
                    axes.plot(at, start + slope * np.log(at), color=COLOURS[rule], linestyle="dotted")
            top = max(_row(rows, name, "SplitEE", long=True)["regret_mean"])
            axes.set(xscale="log", xlabel="samples", ylim=(0, 1.3 * top), ylabel="cumulative regret")
            axes.set_title(f"{name}, o = {MAIN_COST}", loc="left")
        title = "dotted: a + b ln t, fitted\nto the last tenth"
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=9, title=title, title_fontsize=9)
    return figure


def train(arguments: Sequence[str]) -> None:
    """Make the recordings of the text network anew."""
    from mdi_exit.training.text import TextTraining, run_text_training  # brings in torch, which no replay needs

    parser = argparse.ArgumentParser(prog="benchmarks/split.py", description="Train the text network and record it.")
    parser.add_argument("--train", type=Path, required=True, help="folder with train.tsv, dev.tsv and test.tsv")
    parser.add_argument("--out", type=Path, default=DATA, help="folder of the recordings")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    run_text_training(given.train, given.out, ("negative", "positive"), TextTraining(seed=given.seed))


def benchmark() -> None:
    """Replay every case, print, write."""
    assert __doc__ is not None
    if any(word.split("=")[0] == "--train" for word in sys.argv[1:]):
        train(sys.argv[1:])
        return
    chosen = options("split", f"{__doc__.partition(chr(10))[0]} (--train DATA records anew)", repetitions=20)
    rows = side_by_side(measure, cases_of(chosen), "replaying")
    summary = summarise(rows)
    show(rows, summary)
    conclude(chosen, summary, rows, [(draw_costs(rows), "split-costs"), (draw_regret(rows), "split-regret")])


if __name__ == "__main__":
    main(benchmark)
