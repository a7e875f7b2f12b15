"""Is it right to transmit? Early exit over a noisy channel, on recorded answers (benchmarks/data/noisy_channel).

A device runs the first segment of the shipped MobileNetV2 and its exit; the feature may go to the far side as B analog
channel uses, over AWGN or Rayleigh block fading. Each transmission decision of papers.md section 4 is tuned on held-out
images and judged on test images: accuracy against SNR, accuracy against average transmissions, and what is left to the
genie. The SNR is drawn evenly from those recorded.

`--train TRAIN --test TEST` (images, folders or zips) trains encoder and decoder anew and records them instead; the
checkpoint goes to `--out FOLDER`, by default runs/noisy-link. See docs/noisy.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import noisy_figures as figures
import numpy as np
from harness import Options, conclude, main, options, table

from mdi_exit.analysis.decider import fit_decider
from mdi_exit.analysis.transmission import Floats, RecordedLink, Sent, at, best_limit, enough, trade_off, tuned
from mdi_exit.channel import FADINGS, capacity_bits
from mdi_exit.jsonfile import write_json
from mdi_exit.policies import transmission as rules

DATA = Path(__file__).resolve().parent / "data" / "noisy_channel"
NAME = "mobilenet_v2"
MEAN_DB = (-10.0, -5.0, 0.0, 5.0, 10.0, 15.0, 20.0)
SHARES = tuple(round(0.05 * step, 2) for step in range(21))
CLASSES = 10
DRAWS, QUICK_DRAWS = 2000, 200  # bootstrap draws of the test images
Row = dict[str, Any]
Rule = rules.TransmissionPolicy


def plain(held: Sent, of: Callable[[Sent], Floats], price: float = 0.0) -> float:
    """One limit on a doubt for all SNRs: the best on average over those recorded."""
    return best_limit(np.broadcast_to(of(held), held.gain.shape), held.gain, price)


def rules_of(link: RecordedLink, fading: str, seed: int) -> dict[str, tuple[Rule, bool]]:
    """Every rule tuned for the highest mean accuracy on held-out images, and whether it knows the mean SNR only."""
    held = link.validation[fading]
    confidence = float(np.clip(1.0 - plain(held, lambda sent: 1.0 - sent.confidence), 0.0, 1.0))
    nats = max(min(plain(held, lambda sent: sent.entropy), 10.0), 0.0)
    learned = fit_decider([link.validation[each] for each in FADINGS], CLASSES, seed)
    found: dict[str, tuple[Rule, bool]] = {
        "always": (rules.AlwaysTransmit(), False),
        "never": (rules.NeverTransmit(), False),
        "random": (rules.RandomTransmission(0.5), False),
        "confidence": (rules.ConfidenceTransmission(confidence), False),
        "entropy": (rules.EntropyTransmission(nats), False),
        # tuned without fading, where the SNR is that of each transmission
        "SNR-aware": (tuned(link.validation["none"]), False),
        "learned": (learned, False),
    }
    if fading != "none":
        found["SNR-aware, mean SNR"] = (tuned(held), True)
    return found


def judge(link: RecordedLink, fading: str, seed: int) -> dict[str, Floats]:
    """Scores (S, N) of every rule on the test images; the genie's are 1 where only the far side is right."""
    test = link.test[fading]
    found = {name: test.scores(rule, seed, mean) for name, (rule, mean) in rules_of(link, fading, seed).items()}
    found["genie"] = np.where(test.gain > 0, 1.0, -1.0)
    return found


def rows_of(link: RecordedLink, fading: str, scores: dict[str, Floats]) -> list[Row]:
    """A row per rule and mean SNR, and the trade-off of each rule with its scores moved, per SNR and over all."""
    test = link.test[fading]
    found: list[Row] = []
    for name, each in scores.items():
        sent, accuracy = (each > 0).mean(axis=1), test.accuracy(each > 0)
        about = {"fading": fading, "rule": name}
        found += [
            {"measure": "decision", **about, "snr_db": snr_db, "transmitted": share, "accuracy": right}
            for snr_db, share, right in zip(test.mean_db.tolist(), sent.tolist(), accuracy.tolist(), strict=True)
        ]
        if name in ("always", "never", "genie"):
            continue
        found.append({"measure": "trade-off", **about, "snr_db": None, "share": SHARES,
                      "accuracy": trade_off(each, test, SHARES)})  # fmt: skip
        found += [
            {"measure": "trade-off", **about, "snr_db": snr_db, "share": SHARES,
             "accuracy": trade_off(each[[number]], at(test, number), SHARES)}
            for number, snr_db in enumerate(test.mean_db.tolist())
        ]  # fmt: skip
    return found


def saved(link: RecordedLink, seed: int) -> dict[str, float]:
    """At the highest SNR: transmissions saved by the learned rule at the accuracy of always transmitting.

    The limit is chosen on held-out images, so that they come to what always transmitting does there.
    """
    held, test = (at(part["none"], -1 % len(MEAN_DB)) for part in (link.validation, link.test))
    rule = fit_decider([link.validation[each] for each in FADINGS], CLASSES, seed)
    wanted = float(held.far_right.mean())
    limit = enough(held.scores(rule, seed), held, wanted)
    assert limit is not None
    chosen = test.scores(rule, seed) > limit
    return {
        "transmissions_saved_high_snr": 1.0 - float(chosen.mean()),
        "saved_accuracy_change_points": 100 * float(test.accuracy(chosen)[0] - test.far_right.mean()),
    }


def weights_of(link: RecordedLink, seed: int) -> dict[str, Any]:
    """The learned rule as an experiment's `decision: {rule: learned, file: decider.json}` reads it."""
    rule = fit_decider([link.validation[each] for each in FADINGS], CLASSES, seed)
    return {"hidden": rule.hidden, "output": rule.output}


def interval(values: Floats, draws: int, seed: int) -> tuple[float, float, float]:
    """Mean of a value per image (N,), in points, with its 95 % interval over bootstrap draws of the images."""
    generator = np.random.default_rng(seed)
    means = [values[generator.integers(0, len(values), len(values))].mean() for _ in range(draws)]
    low, high = np.quantile(means, [0.025, 0.975])
    return 100 * float(values.mean()), 100 * float(low), 100 * float(high)


def summarise(link: RecordedLink, scores: dict[str, dict[str, Floats]], draws: int, seed: int) -> dict[str, float]:
    """The numbers that are the benchmark's answer; differences are paired per image."""
    found = saved(link, seed)

    def right(fading: str, rule: str) -> Floats:
        sent = link.test[fading]
        return np.where(scores[fading][rule] > 0, sent.far_right, sent.early_right).astype(np.float64)

    def add(name: str, values: Floats) -> None:
        found[name], found[f"{name}_low"], found[f"{name}_high"] = interval(values, draws, seed)

    for fading in FADINGS:
        suffix = "" if fading == "none" else f"_{fading}"
        gained = right(fading, "learned") - right(fading, "always")
        add(f"low_snr_gain_points{suffix}", gained[0])
        add(f"mean_gain_over_always_points{suffix}", gained.mean(axis=0))
        for number, snr_db in enumerate(MEAN_DB):
            best = max(("always", "never"), key=lambda rule: float(right(fading, rule)[number].mean()))
            more = right(fading, "learned")[number] - right(fading, best)[number]
            found[f"gain_over_both_{snr_db:g}db_points{suffix}"] = 100 * float(more.mean())
        for name, key in (("learned", "decider"), ("SNR-aware", "snr_aware")):
            add(f"{key}_gain_points{suffix}", (right(fading, name) - right(fading, "confidence")).mean(axis=0))
        add(f"learned_over_snr_aware_points{suffix}",
            (right(fading, "learned") - right(fading, "SNR-aware")).mean(axis=0))  # fmt: skip
        add(f"genie_over_learned_points{suffix}", (right(fading, "genie") - right(fading, "learned")).mean(axis=0))
        share = float((scores[fading]["confidence"] > 0).mean())
        for name, key in (("learned", "decider"), ("SNR-aware", "snr_aware")):
            one, other = (trade_off(scores[fading][rule], link.test[fading], [share])[0]
                          for rule in (name, "confidence"))  # fmt: skip
            found[f"{key}_gain_at_equal_transmissions_points{suffix}"] = 100 * (one - other)
    found["exit_accuracy"] = float(link.test["none"].early_right.mean())
    found["clean_accuracy"] = link.clean_accuracy
    found["highest_snr_accuracy"] = float(link.test["none"].far_right[-1].mean())
    found["uses"] = link.uses
    aware = tuned(link.validation["none"])
    found |= {f"threshold_{snr_db:g}db": limit for snr_db, limit in zip(aware.snr_db, aware.thresholds, strict=True)}
    return found


def show(link: RecordedLink, rows: Sequence[Row], summary: dict[str, float]) -> None:
    """Print the tables, and which goals are met."""
    count = len(link.test["none"].label)
    print(
        f"\n{count} test images, B = {link.uses}. Right without a channel: {100 * summary['exit_accuracy']:.1f} % at "
        f"the exit in front of the cut, {100 * link.clean_accuracy:.1f} % at the last exit. At {MEAN_DB[0]:g} and "
        f"{MEAN_DB[-1]:g} dB no code could carry more than {capacity_bits(link.uses, MEAN_DB[0]):.0f} and "
        f"{capacity_bits(link.uses, MEAN_DB[-1]):.0f} bits; the feature has {8 * link.feature_bytes}."
    )
    for fading in FADINGS:
        print(f"\nRight (transmitted) in %, fading: {fading}")
        mine = [row for row in rows if row["measure"] == "decision" and row["fading"] == fading]
        lines = []
        for rule in dict.fromkeys(row["rule"] for row in mine):
            cells = [row for row in mine if row["rule"] == rule]
            mean = sum(row["accuracy"] for row in cells) / len(cells)
            sent = sum(row["transmitted"] for row in cells) / len(cells)
            each = [f"{100 * row['accuracy']:.1f} ({100 * row['transmitted']:.0f})" for row in cells]
            lines.append([rule, *each, f"{100 * mean:.2f} ({100 * sent:.0f})"])
        table(["rule", *(f"{snr_db:g} dB" for snr_db in MEAN_DB), "mean"], lines)
    low, high = MEAN_DB[0], MEAN_DB[-1]
    goals = (
        (f"better than always at {low:g} dB", "low_snr_gain_points", "points"),
        ("learned better than one threshold", "decider_gain_points", "points"),
        ("SNR-aware better than one threshold", "snr_aware_gain_points", "points"),
    )
    print()
    for goal, key, unit in goals:
        ends = f"{summary[f'{key}_low']:.2f} to {summary[f'{key}_high']:.2f}"
        met = "met" if summary[f"{key}_low"] > 0 else "NOT MET"
        print(f"{goal}: {met}, {summary[key]:.2f} {unit} (95 %: {ends})")
    print(
        f"transmissions saved at {high:g} dB: {100 * summary['transmissions_saved_high_snr']:.1f} %, accuracy "
        f"{summary['saved_accuracy_change_points']:+.2f} points against always transmitting"
    )


def train(arguments: Sequence[str]) -> None:
    """Train encoder and decoder anew, write the checkpoint, record it."""
    from mdi_exit.training.noisy import NoisyTraining  # brings in torch, which no replay needs
    from mdi_exit.training.noisy_run import LinkOptions, run_link_training

    usual = NoisyTraining()
    parser = argparse.ArgumentParser(prog="benchmarks/noisy_channel.py", description="Train an analog link.")
    parser.add_argument("--train", required=True, help="the images that the network was trained on, folder or zip")
    parser.add_argument("--test", required=True, help="the images to report on")
    parser.add_argument("--model", default="mobilenetv2-cifar10", help="the checkpoint to put the link into")
    parser.add_argument("--out", type=Path, default=Path("runs") / "noisy-link", help="folder of the checkpoint")
    parser.add_argument("--recording", type=Path, help=f"default: {NAME}.npz in that folder")
    parser.add_argument("--uses", type=int, default=usual.uses, help="B, channel uses")
    parser.add_argument("--snr-db", type=float, nargs=2, metavar=("LOW", "HIGH"), help="default: -10 20")
    parser.add_argument("--epochs", type=int, default=usual.epochs)
    parser.add_argument("--images", type=int, nargs=2, metavar=("HELD", "TEST"), help="recorded at most; default: all")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    low_db, high_db = given.snr_db or (usual.snr_low_db, usual.snr_high_db)
    try:
        made = NoisyTraining(
            uses=given.uses, snr_low_db=low_db, snr_high_db=high_db, epochs=given.epochs, seed=given.seed
        )
    except ValueError as error:
        parser.error(str(error))
    recording = given.recording or given.out / f"{NAME}.npz"
    name = f"{Path(given.model).stem}-analog"
    run_link_training(
        LinkOptions(
            base=given.model,
            data=given.train,
            test=given.test,
            out=given.out,
            name=name,
            recording=recording,
            training=made,
            mean_db=MEAN_DB,
            images_max=tuple(given.images or (10**9, 10**9)),
            program="python benchmarks/noisy_channel.py",
        )
    )


def benchmark() -> None:
    """Judge every rule, print, write."""
    assert __doc__ is not None
    if any(word.split("=")[0] == "--train" for word in sys.argv[1:]):
        train(sys.argv[1:])
        return
    question = f"{__doc__.partition(chr(10))[0]} (--train TRAIN --test TEST records anew)"
    chosen: Options = options("noisy_channel", question, repetitions=1)
    link = RecordedLink.load(DATA / f"{NAME}.npz")
    scores = {fading: judge(link, fading, chosen.seed) for fading in FADINGS}
    rows = [row for fading in FADINGS for row in rows_of(link, fading, scores[fading])]
    summary = summarise(link, scores, QUICK_DRAWS if chosen.quick else DRAWS, chosen.seed)
    show(link, rows, summary)
    write_json(chosen.out / "decider.json", weights_of(link, chosen.seed))
    drawn = [(figures.against_snr(rows), "noisy-snr"), (figures.against_transmissions(rows), "noisy-transmissions")]
    conclude(chosen, summary, rows, drawn)


if __name__ == "__main__":
    main(benchmark)
