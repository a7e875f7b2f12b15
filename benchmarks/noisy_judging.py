"""What benchmarks/noisy_channel.py computes of a recording: rules tuned on held-out images, judged on test images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mdi_exit.analysis.decider import fit_decider
from mdi_exit.analysis.transmission import (
    Bools,
    Floats,
    RecordedLink,
    Sent,
    at,
    best_limit,
    enough,
    some,
    trade_off,
    tuned,
)
from mdi_exit.channel import FADINGS
from mdi_exit.policies import transmission as rules

MEAN_DB = (-10.0, -5.0, 0.0, 5.0, 10.0, 15.0, 20.0)
SHARES = tuple(round(0.05 * step, 2) for step in range(21))
LOSSES = (0.0, 0.5, 1.0)  # points of accuracy below always transmitting, for the transmissions saved
CLASSES = 10
Row = dict[str, Any]
Rule = rules.TransmissionPolicy


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """A recording with what was tuned on its held-out images, and every rule's scores (S, N) of its test images."""

    link: RecordedLink
    learned: rules.LearnedTransmission
    scores: dict[str, dict[str, Floats]]  # by fading, then rule; the genie's are 1 where only the far side is right


def judge(link: RecordedLink, seed: int) -> Judged:
    """Tune every rule for the highest mean accuracy over the SNRs."""
    learned = fit_decider([link.validation[each] for each in FADINGS], CLASSES, seed)
    scores: dict[str, dict[str, Floats]] = {}
    for fading in FADINGS:
        test, found = link.test[fading], rules_of(link, fading, learned)
        scores[fading] = {name: test.scores(rule, seed, mean) for name, (rule, mean) in found.items()}
        scores[fading]["genie"] = np.where(test.gain > 0, 1.0, -1.0)
    return Judged(link, learned, scores)


def plain(held: Sent, of: Callable[[Sent], Floats], price: float = 0.0) -> float:
    """One limit on a doubt for all SNRs: the best on average over those recorded."""
    return best_limit(np.broadcast_to(of(held), held.gain.shape), held.gain, price)


def rules_of(link: RecordedLink, fading: str, learned: Rule) -> dict[str, tuple[Rule, bool]]:
    """Every rule tuned for the highest mean accuracy on held-out images, and whether it knows the mean SNR only."""
    held = link.validation[fading]
    confidence = float(np.clip(1.0 - plain(held, lambda sent: 1.0 - sent.confidence), 0.0, 1.0))
    nats = max(min(plain(held, lambda sent: sent.entropy), 10.0), 0.0)
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


def rows_of(judged: Judged, fading: str) -> list[Row]:
    """A row per rule and mean SNR, and the trade-off of each rule with its scores moved, per SNR and over all."""
    test = judged.link.test[fading]
    found: list[Row] = []
    for name, each in judged.scores[fading].items():
        sent, accuracy = (each > 0).mean(axis=1), test.accuracy(each > 0)
        about = {"cut": judged.link.cut, "fading": fading, "rule": name}
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


def saved(judged: Judged, loss_points: float, draws: int, seed: int) -> Row:
    """At the highest SNR: transmissions that the learned rule saves, at an accuracy `loss_points` below always.

    The limit is the one with fewest transmissions among those that on held-out images lose no more. `low` and `high`
    are over draws of the test images, at that limit; `anew_low` and `anew_high` also over draws of the held-out images,
    the limit chosen on each: where the accuracy hardly changes with the limit, few images decide which one is chosen.
    """
    last = len(MEAN_DB) - 1
    held, test = at(judged.link.validation["none"], last), at(judged.link.test["none"], last)
    known, asked = held.scores(judged.learned, seed), judged.scores["none"]["learned"][[last]]

    def limit_on(sent: Sent, scores: Floats) -> float:
        found = enough(scores, sent, float(sent.far_right.mean()) - loss_points / 100)
        assert found is not None, "all of them transmitted is what always does"
        return found

    stays = asked[0] <= limit_on(held, known)
    change = np.where(stays, test.early_right, test.far_right[0]).astype(np.float64) - test.far_right[0]
    generator = np.random.default_rng(seed)
    shares = []
    for _ in range(draws):
        images, others = (generator.integers(0, len(part.label), len(part.label)) for part in (held, test))
        shares.append(float((asked[0, others] <= limit_on(some(held, images), known[:, images])).mean()))
    anew_low, anew_high = np.quantile(shares, [0.025, 0.975])
    kept, low, high = (share / 100 for share in interval(stays.astype(np.float64), draws, seed))
    lost, lost_low, lost_high = interval(change, draws, seed)
    return {"measure": "saved", "cut": judged.link.cut, "fading": "none", "rule": "learned", "snr_db": MEAN_DB[last],
            "loss_points": loss_points, "saved": kept, "low": low, "high": high,
            "anew_low": float(anew_low), "anew_high": float(anew_high),
            "change_points": lost, "change_low": lost_low, "change_high": lost_high}  # fmt: skip


def interval(values: Floats, draws: int, seed: int) -> tuple[float, float, float]:
    """Mean of a value per image (N,), in points, with its 95 % interval over bootstrap draws of the images."""
    generator = np.random.default_rng(seed)
    means = [values[generator.integers(0, len(values), len(values))].mean() for _ in range(draws)]
    low, high = np.quantile(means, [0.025, 0.975])
    return 100 * float(values.mean()), 100 * float(low), 100 * float(high)


def highest(scores: Floats, share: float) -> Bools:
    """Where the `share` of highest score is, as `trade_off` takes it."""
    chosen = np.zeros(scores.size, dtype=np.bool_)
    chosen[np.argsort(-scores, axis=None, kind="stable")[: round(share * scores.size)]] = True
    return chosen.reshape(scores.shape)


def summarise(judged: Judged, savings: Sequence[Row], draws: int, seed: int) -> dict[str, float]:
    """The numbers that are the benchmark's answer for one cut; differences are paired per image."""
    link, scores = judged.link, judged.scores
    found: dict[str, float] = {}
    for row, suffix in zip(savings, ("", "_half_point", "_one_point"), strict=True):
        name = f"transmissions_saved_high_snr{suffix}"
        found |= {name: row["saved"], f"{name}_low": row["low"], f"{name}_high": row["high"]}
        found |= {f"{name}_anew_low": row["anew_low"], f"{name}_anew_high": row["anew_high"]}
        found[f"saved_accuracy_change_points{suffix}"] = row["change_points"]
    for fading in FADINGS:
        found |= _gains(link.test[fading], scores[fading], "" if fading == "none" else f"_{fading}", draws, seed)
    found["cut"] = link.cut
    found["exit_accuracy"] = float(link.test["none"].early_right.mean())
    found["clean_accuracy"] = link.clean_accuracy
    found["highest_snr_accuracy"] = float(link.test["none"].far_right[-1].mean())
    found["uses"] = link.uses
    aware = tuned(link.validation["none"])
    return found | {f"threshold_{db:g}db": limit for db, limit in zip(aware.snr_db, aware.thresholds, strict=True)}


def _gains(sent: Sent, scores: dict[str, Floats], suffix: str, draws: int, seed: int) -> dict[str, float]:
    """What the rules gain on each other over one kind of fading, in points."""
    found: dict[str, float] = {}

    def right(transmitted: Bools) -> Floats:
        return np.where(transmitted, sent.far_right, sent.early_right).astype(np.float64)

    def add(name: str, values: Floats) -> None:
        name += suffix
        found[name], found[f"{name}_low"], found[f"{name}_high"] = interval(values, draws, seed)

    one = {name: right(each > 0) for name, each in scores.items()}
    gained = one["learned"] - one["always"]
    add("low_snr_gain_points", gained[0])
    add("mean_gain_over_always_points", gained.mean(axis=0))
    for number, snr_db in enumerate(MEAN_DB):
        best = max(("always", "never"), key=lambda rule: float(one[rule][number].mean()))
        more = one["learned"][number] - one[best][number]
        found[f"gain_over_both_{snr_db:g}db_points{suffix}"] = 100 * float(more.mean())
    share = float((scores["confidence"] > 0).mean())
    plain_one = {each: right(highest(scores["confidence"], each)) for each in (share, *SHARES[1:-1])}
    for name, key in (("learned", "decider"), ("SNR-aware", "snr_aware")):
        add(f"{key}_gain_points", (one[name] - one["confidence"]).mean(axis=0))
        more = right(highest(scores[name], share)) - plain_one[share]
        add(f"{key}_gain_at_equal_transmissions_points", more.mean(axis=0))
        ahead = {each: float((right(highest(scores[name], each)) - plain_one[each]).mean()) for each in SHARES[1:-1]}
        least = min(ahead, key=lambda each: ahead[each])
        found[f"{key}_least_gain_at_any_share_points{suffix}"] = 100 * ahead[least]
        found[f"{key}_least_gain_share{suffix}"] = least
        found[f"{key}_mean_gain_over_shares_points{suffix}"] = 100 * float(np.mean(list(ahead.values())))
    add("learned_over_snr_aware_points", (one["learned"] - one["SNR-aware"]).mean(axis=0))
    add("genie_over_learned_points", (one["genie"] - one["learned"]).mean(axis=0))
    return found
