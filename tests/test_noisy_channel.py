"""benchmarks/noisy_channel.py: the recording it ships, what it refuses, what its summary is made of."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mdi_exit.analysis.transmission import RecordedLink
from mdi_exit.models import checkpoint

from .networks import noise, save_untrained

RECORDING = Path(__file__).resolve().parents[1] / "benchmarks" / "data" / "noisy_channel" / "mobilenet_v2.npz"


def test_the_shipped_recording_is_of_the_shipped_link() -> None:
    link = RecordedLink.load(RECORDING)
    assert set(link.validation) == set(link.test) == {"none", "rayleigh"} and link.uses == 128
    test = link.test["none"]
    assert len(test.label) >= 4000 and len(link.validation["none"].label) >= 2000
    accuracy = test.far_right.mean(axis=1)
    assert (np.diff(accuracy) > -0.02).all() and accuracy[0] < test.early_right.mean() < accuracy[-1]
    gain = 10 ** ((link.test["rayleigh"].snr_db - link.test["rayleigh"].mean_db[:, None]) / 10)
    assert gain.mean() == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize(("words", "message"), [
    (["--uses", "0"], "uses is 0; allowed: 1 or more channel uses"),
    (["--snr-db", "20", "-10"], "the SNR range is 20 to -10 dB; allowed: from low to high"),
    (["--epochs", "0"], "cut and epochs of 1 or more"),
])  # fmt: skip
def test_training_refuses_what_cannot_be_before_it_reads_anything(
    words: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(RECORDING.parents[2]))
    benchmark = importlib.import_module("noisy_channel")
    monkeypatch.setattr(sys, "argv", ["noisy_channel.py", "--train", "nowhere", "--test", "nowhere", *words])
    with pytest.raises(SystemExit) as ended:
        benchmark.benchmark()
    assert ended.value.code == 2 and message in capsys.readouterr().err


def test_training_beside_an_own_network_ends_with_a_checkpoint_that_loads_and_its_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, image in enumerate(noise(24)):
        folder = tmp_path / "images" / "abc"[number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{number:02}.png")
    network, card = checkpoint.load(save_untrained(tmp_path / "base" / "own"))
    card = dataclasses.replace(card, data_images=24, validation_share=0.25)
    checkpoint.save(tmp_path / "base" / "own", network, card)
    monkeypatch.syspath_prepend(str(RECORDING.parents[2]))
    benchmark = importlib.import_module("noisy_channel")
    monkeypatch.chdir(tmp_path)
    benchmark.train(["--train", "images", "--test", "images", "--model", "base/own.safetensors", "--out", "link",
                     "--uses", "5", "--epochs", "1"])  # fmt: skip
    _, made = checkpoint.load("link/own-analog")
    assert made.model.analog is not None and made.model.analog.uses == 5 and made.base == "own"
    link = RecordedLink.load(Path("link") / "mobilenet_v2.npz")
    assert (len(link.validation["none"].label), len(link.test["rayleigh"].label)) == (6, 24)
