"""`benchmarks/noisy_channel.py --train TRAIN --test TEST`: a link trained anew, its checkpoint, its recording."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from noisy_judging import MEAN_DB

from mdi_exit.training.noisy import NoisyTraining
from mdi_exit.training.noisy_run import LinkOptions, run_link_training


def train(arguments: Sequence[str]) -> None:
    """Train encoder and decoder anew, write the checkpoint, record it."""
    usual = NoisyTraining()
    parser = argparse.ArgumentParser(prog="benchmarks/noisy_channel.py", description="Train an analog link.")
    parser.add_argument("--train", required=True, help="the images that the network was trained on, folder or zip")
    parser.add_argument("--test", required=True, help="the images to report on")
    parser.add_argument("--model", default="mobilenetv2-cifar10", help="the checkpoint to put the link into")
    parser.add_argument("--out", type=Path, default=Path("runs") / "noisy-link", help="folder of the checkpoint")
    parser.add_argument("--recording", type=Path, help="default: cut-CUT.npz in that folder")
    parser.add_argument("--cut", type=int, default=usual.cut, help=f"the segment it follows; default: {usual.cut}")
    parser.add_argument("--uses", type=int, default=usual.uses, help=f"B, channel uses; default: {usual.uses}")
    parser.add_argument("--snr-db", type=float, nargs=2, metavar=("LOW", "HIGH"), help="default: -10 20")
    parser.add_argument("--epochs", type=int, default=usual.epochs, help=f"default: {usual.epochs}")
    parser.add_argument("--images", type=int, nargs=2, metavar=("HELD", "TEST"), help="recorded at most; default: all")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    low_db, high_db = given.snr_db or (usual.snr_low_db, usual.snr_high_db)
    try:
        made = NoisyTraining(
            cut=given.cut, uses=given.uses, snr_low_db=low_db, snr_high_db=high_db, epochs=given.epochs, seed=given.seed
        )
    except ValueError as error:
        parser.error(str(error))
    run_link_training(
        LinkOptions(
            base=given.model,
            data=given.train,
            test=given.test,
            out=given.out,
            name=f"{Path(given.model).stem}-analog",
            recording=given.recording or given.out / f"cut-{given.cut}.npz",
            training=made,
            mean_db=MEAN_DB,
            images_max=tuple(given.images or (10**9, 10**9)),
            program="python benchmarks/noisy_channel.py",
        )
    )
