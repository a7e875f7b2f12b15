"""Is it right to transmit? Early exit over a noisy channel, on recorded answers (benchmarks/data/noisy_channel).

A device runs the first two segments of the shipped MobileNetV2 and its exit; the feature may go to the far side as B
analog channel uses, over AWGN or Rayleigh block fading. Each transmission decision of papers.md section 4 is tuned on
held-out images and judged on test images: accuracy against SNR, accuracy against average transmissions, what is saved
where transmitting is worth it, and what is left to the genie. The SNR is drawn evenly from those recorded. Beside it
the same with the cut after the first segment, whose exit is much weaker: what an exit is worth decides what it saves.

`--train TRAIN --test TEST` (images, folders or zips) trains encoder and decoder anew and records them instead; the
checkpoint goes to `--out FOLDER`, by default runs/noisy-link. See docs/noisy.md.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import noisy_figures as figures
from harness import Options, conclude, main, options, table
from noisy_judging import LOSSES, MEAN_DB, Judged, Row, judge, rows_of, saved, summarise

from mdi_exit.analysis.transmission import RecordedLink
from mdi_exit.channel import FADINGS, capacity_bits
from mdi_exit.jsonfile import write_json

DATA = Path(__file__).resolve().parent / "data" / "noisy_channel"
SHIPPED, OTHER = 2, 1  # cuts: of the link that comes with the package, and of the one it is compared with
DRAWS, QUICK_DRAWS = 2000, 200  # bootstrap draws of the images


def benchmark() -> None:
    """Judge every rule at both cuts, print, write."""
    assert __doc__ is not None
    if any(word.split("=")[0] == "--train" for word in sys.argv[1:]):
        from noisy_training import train  # brings in torch, which no replay needs

        train(sys.argv[1:])
        return
    question = f"{__doc__.partition(chr(10))[0]} (--train TRAIN --test TEST records anew)"
    chosen: Options = options("noisy_channel", question, repetitions=1)
    draws = QUICK_DRAWS if chosen.quick else DRAWS
    rows: list[Row] = []
    summaries: dict[int, dict[str, float]] = {}
    for cut in (SHIPPED, OTHER):
        judged = judge(RecordedLink.load(DATA / f"cut-{cut}.npz"), chosen.seed)
        savings = [saved(judged, loss, draws, chosen.seed) for loss in LOSSES]
        mine = [*(row for fading in FADINGS for row in rows_of(judged, fading)), *savings]
        summaries[cut] = summarise(judged, savings, draws, chosen.seed)
        show(judged, mine, summaries[cut])
        rows += mine
        if cut == SHIPPED:
            # as an experiment's `decision: {rule: learned, file: decider.json}` reads it
            write_json(chosen.out / "decider.json", {"hidden": judged.learned.hidden, "output": judged.learned.output})
    compare(summaries, rows)
    shipped = [row for row in rows if row["cut"] == SHIPPED]
    drawn = [
        (figures.against_snr(shipped), "noisy-snr"),
        (figures.against_transmissions(shipped), "noisy-transmissions"),
        (figures.of_cuts(rows, (SHIPPED, OTHER)), "noisy-cuts"),
    ]
    other = {f"{name}_cut_{OTHER}": value for name, value in summaries[OTHER].items() if name != "cut"}
    conclude(chosen, summaries[SHIPPED] | other, rows, drawn)


def show(judged: Judged, rows: Sequence[Row], summary: dict[str, float]) -> None:
    """Print the tables of one cut, and which goals are met."""
    link = judged.link
    print(
        f"\nCut after segment {link.cut}: {len(link.test['none'].label)} test images, B = {link.uses}. Right without "
        f"a channel: {100 * summary['exit_accuracy']:.1f} % at the exit in front of the cut, "
        f"{100 * link.clean_accuracy:.1f} % at the last exit. At {MEAN_DB[0]:g} and {MEAN_DB[-1]:g} dB no code could "
        f"carry more than {capacity_bits(link.uses, MEAN_DB[0]):.0f} and {capacity_bits(link.uses, MEAN_DB[-1]):.0f} "
        f"bits; the feature has {8 * link.feature_bytes}."
    )
    for fading in FADINGS:
        print(f"\nRight (transmitted) in %, cut after segment {link.cut}, fading: {fading}")
        mine = [row for row in rows if row["measure"] == "decision" and row["fading"] == fading]
        lines = []
        for rule in dict.fromkeys(row["rule"] for row in mine):
            cells = [row for row in mine if row["rule"] == rule]
            mean = sum(row["accuracy"] for row in cells) / len(cells)
            sent = sum(row["transmitted"] for row in cells) / len(cells)
            each = [f"{100 * row['accuracy']:.1f} ({100 * row['transmitted']:.0f})" for row in cells]
            lines.append([rule, *each, f"{100 * mean:.2f} ({100 * sent:.0f})"])
        table(["rule", *(f"{snr_db:g} dB" for snr_db in MEAN_DB), "mean"], lines)
        show_gains(summary, "" if fading == "none" else f"_{fading}")


def show_gains(summary: dict[str, float], suffix: str) -> None:
    """Print which goals are met over one kind of fading, and what else the rules gain on each other."""

    def said(key: str) -> str:
        value, low, high = (summary[f"{key}{suffix}{end}"] for end in ("", "_low", "_high"))
        return f"{value:.2f} points (95 %: {low:.2f} to {high:.2f})"

    goals = (
        (f"better than always at {MEAN_DB[0]:g} dB", "low_snr_gain_points"),
        ("learned better than one threshold", "decider_gain_points"),
        ("SNR-aware better than one threshold", "snr_aware_gain_points"),
        ("learned better at as many transmissions", "decider_gain_at_equal_transmissions_points"),
        ("SNR-aware better at as many transmissions", "snr_aware_gain_at_equal_transmissions_points"),
    )
    print()
    for goal, key in goals:
        print(f"{goal}: {'met' if summary[f'{key}{suffix}_low'] > 0 else 'NOT MET'}, {said(key)}")
    for name, key in (("learned", "decider"), ("SNR-aware", "snr_aware")):
        mean, least, share = (
            summary[f"{key}_{what}{suffix}"]
            for what in ("mean_gain_over_shares_points", "least_gain_at_any_share_points", "least_gain_share")
        )
        print(
            f"{name} against one threshold at equal transmissions, 5 to 95 %: on average {mean:.2f} points, at least "
            f"{least:.2f}, at {100 * share:.0f} %"
        )
    print(f"learned against SNR-aware: {said('learned_over_snr_aware_points')}")
    print(f"genie against learned: {said('genie_over_learned_points')}")
    both = (f"{summary[f'gain_over_both_{db:g}db_points{suffix}']:+.2f} at {db:g} dB" for db in MEAN_DB)
    print(f"learned against the better of always and never: {', '.join(both)}")


def compare(summaries: dict[int, dict[str, float]], rows: Sequence[Row]) -> None:
    """Print both cuts side by side: what a good exit saves, and what a weak one does."""
    names = ("exit_accuracy", "highest_snr_accuracy", "clean_accuracy")
    gains = ("low_snr_gain_points", "decider_gain_points", "snr_aware_gain_points")
    lines = [
        [str(cut), *(f"{100 * each[name]:.1f}" for name in names), *(f"{each[name]:.2f}" for name in gains)]
        for cut, each in summaries.items()
    ]
    print(f"\nBoth cuts: right in %; gains in points: over always at {MEAN_DB[0]:g} dB, over one threshold on average")
    headings = ("cut after", "exit", f"always, {MEAN_DB[-1]:g} dB", "no link", "low SNR", "learned", "SNR-aware")
    table(headings, lines)
    print(f"\nTransmissions that the learned rule saves at {MEAN_DB[-1]:g} dB, its limit chosen on held-out images:")
    for row in (row for row in rows if row["measure"] == "saved"):
        share, *ends = (f"{100 * row[name]:.1f}" for name in ("saved", "low", "high", "anew_low", "anew_high"))
        change, *others = (f"{row[name]:+.2f}" for name in ("change_points", "change_low", "change_high"))
        print(
            f"cut {row['cut']}, losing {row['loss_points']:g} points there: {share} % (95 %: {ends[0]} to {ends[1]}; "
            f"limit chosen anew {ends[2]} to {ends[3]}), accuracy {change} points ({others[0]} to {others[1]})"
        )


if __name__ == "__main__":
    main(benchmark)
