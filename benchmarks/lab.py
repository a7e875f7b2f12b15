"""From no cluster to a planned run and back: does it work, and does a plan keep its promise on emulated devices?

The very commands that a user types, on a lab of five equal devices and on one whose devices are four times apart:
`mdi-exit lab up`, `ray up`, `doctor`, `profile`, `plan`, a run as planned and one with the even split (equal numbers of
segments, in order from the source; the same rules), `ray down`, `lab down`. Goals: the planned run answers at least 1.5
times as many as the even split where speeds differ, each prediction is within 15 % of what was measured, and nothing of
a lab is left. It needs root and Linux, and a machine that has nothing else to do: the devices together get 1.3 cores.
It takes some ten minutes; with --quick, on one lab of two devices and with the shortest steps, two: Ray has to start.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from harness import Spread, conclude, main, options, spread, table, turns
from leftovers import remains, spaces_of

from mdi_exit.analysis import plots
from mdi_exit.errors import UserError
from mdi_exit.jsonfile import read_json
from mdi_exit.lab import cgroups, shell
from mdi_exit.report import settled

Row = dict[str, Any]
# Cores of each device. What is left of two the kernel takes for the links, or others: else devices lack their shares.
CLUSTERS: Mapping[str, Mapping[str, float]] = {
    "equal": dict.fromkeys(("n1", "n2", "n3", "n4", "n5"), 0.25),
    "4x": {"n1": 0.64, "n2": 0.16, "n3": 0.16, "n4": 0.16, "n5": 0.16},
}
QUICK: Mapping[str, Mapping[str, float]] = {"4x": {"n1": 1.2, "n2": 0.3}}
TITLES = {"equal": "equal devices", "4x": "speeds 4x apart"}
METHODS = {"even": "even split", "planned": "planned"}
GAIN, NEAR = 1.5, 0.15  # the goals
BEFORE_RUN = ("lab up", "ray up", "joined", "doctor", "profile", "plan")
STEPS = (*BEFORE_RUN, "run planned", "run even", "ray down", "lab down")
_PLANNING = ("doctor", "profile", "plan")  # steps that a run does not need
_MEMORY = "1 GB"
_RUN_S, _QUICK_RUN_S = 20, 5
_PROFILE_S, _QUICK_PROFILE_S = 10, 1  # for slices, and again for the trial
_QUICK_TAKES = "one lab of two devices and the shortest steps: two minutes, for some ten"
_JOINED_WITHIN_S, _STEP_S = 300.0, 1.0
_PROGRAM = Path(sys.executable).parent / "mdi-exit"


@dataclass(slots=True)
class Lab:
    """One lab, and the commands given to it, from the folder in which its files lie."""

    name: str
    folder: Path
    took_s: dict[str, float] = field(default_factory=dict)  # by step
    spaces: frozenset[str] = frozenset()

    def command(self, step: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `mdi-exit lab WORDS`, and note how long that took. Raises UserError, with the last that it said."""
        began_s = time.monotonic()
        done = self.trial(*words)
        self.took_s[step] = time.monotonic() - began_s
        if done.returncode != 0:
            said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
            raise UserError(f"{step} ended with status {done.returncode} and said: {said}")
        return done

    def trial(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `mdi-exit lab WORDS` on this lab, however that ends."""
        line = [str(_PROGRAM), "lab", words[0], "--name", self.name, *words[1:]]
        return subprocess.run(line, cwd=self.folder, capture_output=True, text=True, check=False)

    def on_first(self, step: str, first: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `mdi-exit WORDS` on the first device, on the lab's Ray cluster."""
        return self.command(step, "ssh", first, "mdi-exit", *words, "--address", "10.77.0.1:6379")


# ---- measuring


def why_not() -> str:
    """Why no lab can be made here, in a line; empty when one can."""
    try:
        shell.check_machine()
        cgroups.find("probe")
        shell.run([*shell.UNSHARE, "ip", "link", "add", "br0", "type", "bridge"], doing="namespaces with a bridge")
    except UserError as error:
        return str(error)
    return ""


def measure(devices: Mapping[str, float], methods: Sequence[str], seed: int, quick: bool) -> list[Row]:
    """The whole way with one lab: a row for each way to place slices. Raises UserError for a command that fails."""
    with tempfile.TemporaryDirectory(prefix="mdi-exit-lab-") as folder:
        lab = Lab(f"bench-{os.getpid()}", Path(folder))
        limits = {device: {"cpus": cpus, "memory": _MEMORY} for device, cpus in devices.items()}
        (lab.folder / "cluster.yaml").write_text(yaml.safe_dump({"devices": limits}), encoding="utf-8")
        with _up(lab):
            rows = _runs(lab, list(devices), methods, seed, quick)
        left = remains(lab.name, lab.spaces, lab.folder / "lab")
    return [row | {"cpus": dict(devices), "left": left, "took_s": lab.took_s} for row in rows]


@contextlib.contextmanager
def _up(lab: Lab) -> Iterator[None]:
    """A lab that is up, and is taken down whatever happens."""
    lab.command("lab up", "up", "cluster.yaml", "--out", "lab")
    try:
        lab.spaces = spaces_of(lab.name)
        yield
    finally:
        lab.command("lab down", "down")


def _runs(lab: Lab, devices: Sequence[str], methods: Sequence[str], seed: int, quick: bool) -> list[Row]:
    first = devices[0]
    lab.command("ray up", "ssh", "desk", "ray", "up", "--yes", "lab/ray_cluster.yaml")
    _wait_for(lab, first, len(devices))
    lab.on_first("doctor", first, "doctor")
    run_s, profile_s = (_QUICK_RUN_S, _QUICK_PROFILE_S) if quick else (_RUN_S, _PROFILE_S)
    lab.on_first("profile", first, "profile", "lab/experiment.yaml", "--seconds", str(profile_s), "--out", "profile")
    lab.command("plan", "ssh", first, "mdi-exit", "plan", "profile/experiment.yaml", "--out", "plan")
    plan = read_json(lab.folder / "plan" / "plan.json")
    words = ("run", "plan/plan.yaml", "--seed", str(seed), "--set", f"duration_s={run_s}")
    even = [word for device, part in plan["even_split"].items() for word in ("--set", f"placement.{device}={part}")]
    found = {"even": (even, plan["compared"]["even_split"]), "planned": ([], plan["rate_per_s"])}
    done = {m: lab.on_first(f"run {m}", first, *words, *found[m][0], "--out", m, "--json") for m in methods}
    lab.command("ray down", "ssh", "desk", "ray", "down", "--yes", "lab/ray_cluster.yaml")
    beside = {"first_answer_s": _first_answer_s(done[methods[0]].stderr), "order": list(methods)}
    return [{**row_of(m, json.loads(done[m].stdout), found[m][1]), **beside} for m in methods]


def row_of(method: str, report: Mapping[str, Any], predicted_per_s: float) -> Row:
    """What a run came to, beside what was predicted."""
    reached = settled(dict(report))
    return {
        "method": method,
        "placement": {worker: said["slice"] for worker, said in report["workers"].items()},
        "predicted_per_s": predicted_per_s,
        "throughput_per_s": reached["throughput_per_s"],
        "accuracy": reached["accuracy"],
        "lost": report["lost"],
        "utilization": {worker: said["utilization"] for worker, said in report["workers"].items()},
    }


def _wait_for(lab: Lab, first: str, count: int) -> None:
    """Wait until all devices have joined the cluster: `ray up` waits for the head alone."""
    began_s = time.monotonic()
    while time.monotonic() - began_s < _JOINED_WITHIN_S:
        seen = lab.trial("ssh", first, "RAY_AUTH_MODE=token ray status").stdout
        if re.search(rf"^ {count} local\.cluster\.node$", seen, re.MULTILINE):
            lab.took_s["joined"] = time.monotonic() - began_s
            return
        time.sleep(_STEP_S)
    raise UserError(f"ray up: not all of {count} devices joined within {_JOINED_WITHIN_S:.0f} s")


def _first_answer_s(said: str) -> float:
    """When a run had its first answer, by what it said, from its start."""
    found = re.search(r"([0-9.]+) s after the start of this program", said)
    if found is None:
        raise UserError("the first run told of no answer")
    return float(found[1])


# ---- what it amounted to


def of(rows: Sequence[Row], cluster: str, method: str, key: str) -> Spread:
    """A figure of one case over its repetitions."""
    return spread([row[key] for row in rows if (row["cluster"], row["method"]) == (cluster, method)])


def clusters_in(rows: Sequence[Row]) -> list[str]:
    """The labs that were measured."""
    return list(dict.fromkeys(row["cluster"] for row in rows))


def gap(rows: Sequence[Row], cluster: str, method: str) -> float:
    """How far the predictions are from what was measured, relative, the median; above 0: too much was promised."""
    chosen = [row for row in rows if (row["cluster"], row["method"]) == (cluster, method)]
    return spread([row["predicted_per_s"] / max(row["throughput_per_s"], 1e-9) - 1 for row in chosen]).median


def gain(rows: Sequence[Row], cluster: str) -> float:
    """Planned over the even split."""
    even = of(rows, cluster, "even", "throughput_per_s").median
    return of(rows, cluster, "planned", "throughput_per_s").median / max(even, 1e-9)


def first_result_s(row: Row, without: Sequence[str] = ()) -> float:
    """From `lab up` to the first answer of the first run, all steps between counted but those `without`."""
    steps: float = sum(row["took_s"][step] for step in BEFORE_RUN if step not in without)
    return steps + float(row["first_answer_s"])


def left_in(rows: Sequence[Row]) -> dict[str, int]:
    """What is left of all labs, by kind; both rows of a lab tell of the same."""
    labs = {(row["cluster"], row["repetition"]): row["left"] for row in rows}.values()
    return {kind: sum(left[kind] for left in labs) for kind in rows[0]["left"]}


def summarise(rows: Sequence[Row]) -> dict[str, float]:
    """The numbers that are the benchmark's answer."""
    summary: dict[str, float] = {}
    for cluster in clusters_in(rows):
        for method in METHODS:
            summary[f"predicted_{method}_{cluster}"] = of(rows, cluster, method, "predicted_per_s").median
            summary[f"measured_{method}_{cluster}"] = of(rows, cluster, method, "throughput_per_s").median
            summary[f"prediction_gap_{method}_{cluster}"] = gap(rows, cluster, method)
        summary[f"gain_{cluster}"] = gain(rows, cluster)
        mine = [row for row in rows if (row["cluster"], row["method"]) == (cluster, "planned")]
        summary[f"first_result_s_{cluster}"] = spread([first_result_s(row) for row in mine]).median
        unplanned = [first_result_s(row, _PLANNING) for row in mine]
        summary[f"first_result_unplanned_s_{cluster}"] = spread(unplanned).median
    summary["lost"] = float(sum(row["lost"] for row in rows))
    summary["left"] = float(sum(left_in(rows).values()))
    summary["prediction_gap_most"] = max(abs(gap(rows, c, "planned")) for c in clusters_in(rows))
    met = summary["gain_4x"] >= GAIN and summary["prediction_gap_most"] <= NEAR
    summary["goal_met"] = float(met and summary["lost"] == summary["left"] == 0)
    return summary


def show(rows: Sequence[Row], summary: Mapping[str, float]) -> None:
    """Print the tables, and what they mean."""
    lines = []
    for cluster in clusters_in(rows):
        for method, title in METHODS.items():
            row = next(row for row in rows if (row["cluster"], row["method"]) == (cluster, method))
            slices = " ".join(f"{part[0]}-{part[-1]}" for part in row["placement"].values())
            rates = [str(of(rows, cluster, method, key)) for key in ("predicted_per_s", "throughput_per_s")]
            lines.append([TITLES[cluster], title, slices, *rates, f"{gap(rows, cluster, method):+.0%}"])
    table(["lab", "method", "slices", "predicted/s", "measured/s", "prediction"], lines)
    print()
    took = []
    for step in STEPS:
        each = [[row["took_s"][step] for row in rows if row["cluster"] == cluster] for cluster in clusters_in(rows)]
        took.append([step, *(f"{spread(seconds).median:.1f}" for seconds in each)])
    table(["seconds", *(TITLES[cluster] for cluster in clusters_in(rows))], took)
    for cluster in clusters_in(rows):
        goal = f" (goal {GAIN})" if cluster == "4x" else ""
        whole_s, bare_s = (summary[f"first_result_{kind}s_{cluster}"] for kind in ("", "unplanned_"))
        print(
            f"{TITLES[cluster]}: planned over even split {summary[f'gain_{cluster}']:.2f}{goal}; first result "
            f"{whole_s:.0f} s after lab up, {bare_s:.0f} without doctor, profile and plan."
        )
    print(f"Predictions for planned runs off by at most {summary['prediction_gap_most']:.0%} (goal {NEAR:.0%}).")
    print(f"Left after lab down: {', '.join(f'{count} {kind}' for kind, count in left_in(rows).items())}.")


def draw(rows: Sequence[Row]) -> Any:
    """Predicted beside measured, for each lab and method."""
    with plots.style():
        figure = plots.new_figure(6.4, 3.6)
        axes = figure.subplots()
        cases = [(cluster, method) for cluster in clusters_in(rows) for method in METHODS]
        kinds = (("predicted_per_s", "predicted", plots.SKY), ("throughput_per_s", "measured", plots.BLUE))
        for shift, (key, label, colour) in zip((-0.2, 0.2), kinds, strict=True):
            found = [of(rows, *case, key) for case in cases]
            middles, places = [each.median for each in found], [number + shift for number in range(len(cases))]
            axes.bar(places, middles, 0.38, color=colour, label=label)
            ends = [[each.median - each.low for each in found], [each.high - each.median for each in found]]
            if any(map(any, ends)):
                axes.errorbar(places, middles, yerr=ends, fmt="none", color=plots.BLACK, capsize=3)
        names = [f"{TITLES[cluster]},\n{METHODS[method]}" for cluster, method in cases]
        axes.set_xticks(range(len(cases)), names, fontsize=8)
        axes.set_ylabel("images per second")
        axes.grid(visible=False, axis="x")
        axes.legend()
    return figure


def benchmark() -> None:
    """Go the whole way with each lab, print, write."""
    assert __doc__ is not None
    chosen = options("lab", __doc__.partition("\n")[0], repetitions=1, quick=_QUICK_TAKES)
    if lacks := why_not():  # no failure: `make benchmark` goes on with the others
        print(f"lab.py: skipped: {lacks}", file=sys.stderr)
        return
    clusters, rows = QUICK if chosen.quick else CLUSTERS, list[Row]()
    for repetition, name in turns(list(clusters), chosen):
        turn = 1 if (list(clusters).index(name) + repetition) % 2 else -1  # the second finds a cluster that is warm
        for row in measure(clusters[name], list(METHODS)[::turn], chosen.seed + repetition, chosen.quick):
            rows.append(row | {"cluster": name, "repetition": repetition})
    summary = summarise(rows)
    show(rows, summary)
    conclude(chosen, summary, rows, [(draw(rows), "lab")])


if __name__ == "__main__":
    main(benchmark)
