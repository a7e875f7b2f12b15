"""Does SplitEE follow distorted images, without labels? I-SplitEE's question, on blurred and noisy CIFAR-10.

The shipped network's exits on 2,000 test images, as they are and distorted. The threshold is chosen once, on 1,000
clean images that the training held out; or for each distortion, on the same images distorted alike. Each algorithm
meets the images of one distortion in shuffled orders. Blur and noise are made on the pixels; the papers' are on larger
images, so their strengths say nothing about ours.

`--record TRAIN-IMAGES TEST-IMAGES` makes the recordings anew (benchmarks/data/distorted).
"""

from __future__ import annotations

import random
import statistics
import sys
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from harness import conclude, main, options, table
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from recordings import DISTORTED, choose_threshold, lists, recorded
from split import interval

from mdi_exit.errors import UserError
from mdi_exit.policies.bandit import Bandit, Rule, SplitEE, SplitEES, replay
from mdi_exit.policies.splitting import FinalExit, FixedSplit, RandomSplit, Setting, best_split
from mdi_exit.trace import ExitTrace

Row = dict[str, Any]
OWN = ", own threshold"  # of the distortion
ALGORITHMS = ("final exit", "random split", "best split", "SplitEE", "SplitEE-S", f"SplitEE{OWN}")

IMAGES, HELD = 2000, 1000  # of the test images, of those that the training held out
# Gaussian blur by its standard deviation in pixels (of 32), Gaussian noise by that in grey levels (of 255)
DISTORTIONS = {"none": 0.0, "blur 0.5": 0.5, "blur 0.75": 0.75, "blur 1": 1.0, "noise 10": 10.0, "noise 20": 20.0,
               "noise 40": 40.0}  # fmt: skip
_SEED = 0


@dataclass(frozen=True, slots=True)
class Case:
    """An algorithm on the images of one distortion, in some shuffled orders."""

    distortion: str
    algorithm: str
    shuffles: int
    seed: int


def distorted(images: NDArray[np.uint8], name: str, generator: np.random.Generator) -> NDArray[np.uint8]:
    """The images (N, 3, H, W), blurred or noisy."""
    strength = DISTORTIONS[name]
    if name.startswith("noise"):
        noisy = np.rint(images + generator.normal(0.0, strength, images.shape))
        shown: NDArray[np.uint8] = noisy.clip(0, 255).astype(np.uint8)
        return shown
    if not strength:
        return images
    blur = ImageFilter.GaussianBlur(strength)
    pictures = (Image.fromarray(image).filter(blur) for image in images.transpose(0, 2, 3, 1))
    blurred: NDArray[np.uint8] = np.stack([np.asarray(picture) for picture in pictures]).transpose(0, 3, 1, 2)
    return blurred


def trace_file(name: str, held: bool = False) -> Path:
    """Where the recording with this distortion is kept, of test images or of those that were held out."""
    return DISTORTED / f"{name.replace(' ', '-')}{'-held-out' if held else ''}.trace.npz"


def record(train: str, test: str) -> None:
    """Write two traces per distortion."""
    from mdi_exit.models import checkpoint  # bring in torch, which no replay needs
    from mdi_exit.training import console
    from mdi_exit.training import record as recording
    from mdi_exit.training.split import training_split

    console.prepare_device("cpu", 1)
    network, card = checkpoint.load("mobilenetv2-cifar10")
    DISTORTED.mkdir(parents=True, exist_ok=True)
    for source, count, held in ((train, HELD, True), (test, IMAGES, False)):
        images, labels, classes = console.load_arrays(source, card.model.image_size, "train" if held else "test")
        console.require_classes(card, classes, source)
        among = training_split(card, images, labels, source)[1] if held else np.arange(len(labels))
        chosen = among[np.sort(np.random.default_rng(_SEED).permutation(len(among))[:count])]
        for name in DISTORTIONS:
            made = distorted(images[chosen], name, np.random.default_rng(_SEED))
            trace = recording.record(network, card, np.ascontiguousarray(made), labels[chosen])
            trace.save(trace_file(name, held))
            shares = " ".join(f"{100 * share:.1f}" for share in trace.accuracy())
            print(f"{name}{', held out' if held else ''}: accuracy (%) {shares}", flush=True)


def measure(case: Case) -> Row:
    """All shuffles of a case: means with half of their 95 % interval."""
    trace = ExitTrace.load(trace_file(case.distortion))
    rows, right = lists(trace)
    own = case.algorithm.endswith(OWN)
    setting = setting_of(case.distortion if own else "none")
    best = best_split(setting, rows)
    algorithms: dict[str, Bandit | Rule] = {
        "final exit": FinalExit(), "random split": RandomSplit(), "best split": FixedSplit(best),
        "SplitEE": SplitEE(), "SplitEE-S": SplitEES(), f"SplitEE{OWN}": SplitEE(),
    }  # fmt: skip
    done = []
    for number in range(case.shuffles):
        rng = random.Random(f"{case.seed} {number}")
        order = rng.sample(range(len(rows)), len(rows))
        one = replay(algorithms[case.algorithm], rows, right, setting, rng, order)
        offloaded = statistics.fmean(play.offloaded for play in one.plays)
        regret = 0.0 if one.regret is None else one.regret[-1]
        done.append({"accuracy": one.accuracy or 0.0, "cost": one.cost, "offloaded": offloaded, "regret": regret})
    row: Row = {**asdict(case), "threshold": setting.threshold, "best_split": best, "samples": len(rows)}
    for key in done[0]:
        row[key], row[f"{key}_half"] = interval([one[key] for one in done])
    return row


@cache
def setting_of(distortion: str) -> Setting:
    """I-SplitEE's costs, and the threshold that loses at most a point on held-out images with this distortion."""
    setting = recorded("mobilenet_v2")[2]
    held = lists(ExitTrace.load(trace_file(distortion, held=True)))
    return replace(setting, threshold=choose_threshold(*held, setting))


def benchmark() -> None:
    """Replay, print, write."""
    if sys.argv[1:2] == ["--record"]:
        if len(sys.argv) != 4:
            raise UserError("--record: allowed are two folders or zips, the network's training images and test images")
        record(*sys.argv[2:])
        return
    chosen = options("distorted", "Does SplitEE follow distorted images? (--record TRAIN TEST records anew)", 20)
    cases = [Case(name, rule, chosen.repetitions, chosen.seed) for name in DISTORTIONS for rule in ALGORITHMS]
    rows = [measure(case) for case in cases]
    of = {(row["distortion"], row["algorithm"]): row for row in rows}
    summary: dict[str, float] = {"threshold": rows[0]["threshold"]}
    for name in DISTORTIONS:
        final, split = of[name, "final exit"], of[name, "SplitEE"]
        summary[f"{name}_cost_cut"] = 1 - split["cost"] / final["cost"]
        summary[f"{name}_accuracy_drop_points"] = 100 * (final["accuracy"] - split["accuracy"])
        summary[f"{name}_splitee_s_regret_ratio"] = of[name, "SplitEE-S"]["regret"] / split["regret"]
        own = of[name, f"SplitEE{OWN}"]
        summary[f"{name}_own_threshold"] = own["threshold"]
        summary[f"{name}_own_threshold_cost_cut"] = 1 - own["cost"] / final["cost"]
        summary[f"{name}_own_threshold_accuracy_drop_points"] = 100 * (final["accuracy"] - own["accuracy"])
    headings = ["distortion", "algorithm", "threshold", "accuracy", "cost", "offloaded", "regret", "best split"]
    table(headings, [cells(row) for row in rows])
    conclude(chosen, summary, rows, [])


def cells(row: Row) -> list[str]:
    """A line of the table."""
    regret = f"{row['regret']:.1f} ± {row['regret_half']:.1f}"
    shares = (f"{100 * row['accuracy']:.2f} %", f"{row['cost']:.3f}", f"{100 * row['offloaded']:.0f} %")
    return [row["distortion"], row["algorithm"], f"{row['threshold']:g}", *shares, regret, str(row["best_split"])]


if __name__ == "__main__":
    main(benchmark)
