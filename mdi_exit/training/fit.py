"""Train a multi-exit network: all exits jointly, from images held in memory, resumable after every epoch.

An epoch's random numbers follow from the seed and the epoch's number alone. So a state file at the end of each epoch
is all it takes to go on after an interruption and end with the very weights of an uninterrupted run.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import pickle
import textwrap
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mdi_exit.errors import UserError
from mdi_exit.models.build import build
from mdi_exit.models.card import FIXED_SIZE, ModelConfig
from mdi_exit.models.multi_exit import MultiExitNetwork
from mdi_exit.training import optimise
from mdi_exit.training.augment import augment
from mdi_exit.training.evaluate import accuracies, exit_logits
from mdi_exit.training.split import data_sum


class TrainingError(UserError):
    """A training run that cannot start or go on."""


SMALLEST_CROP = 8  # pixels; below, the last feature map would be a single pixel from early on


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """All that decides the weights, beside the images."""

    model: ModelConfig
    epochs: int
    batch_size: int
    learning_rate: float  # the schedule's peak
    weight_decay: float
    label_smoothing: float
    ema_decay: float
    padding: int  # pixels
    cutout: int  # pixels, 0 for none
    early_crop: int  # pixels, 0 for none: side of the crops that the first epochs are trained on, to save time
    early_crop_share: float  # of the epochs
    # Of the forward and backward pass; weights and their averages stay fp32. None: as in the run that is continued, and
    # in a new one on accelerators alone; on processors it is not always faster.
    bf16: bool | None
    init: str  # SHA-256 of the weights it starts from, "" for fresh ones
    seed: int

    def __post_init__(self) -> None:
        side = self.model.image_size
        if self.padding >= side:
            raise TrainingError(f"--padding {self.padding}: allowed is less than the image size, {side}")
        if self.early_crop and not SMALLEST_CROP <= self.early_crop <= side:
            raise TrainingError(f"--early-crop {self.early_crop}: allowed are 0 and {SMALLEST_CROP} to {side} pixels")
        if self.early_crop and (name := self.model.architecture) in FIXED_SIZE:
            raise TrainingError(f"--early-crop {self.early_crop}: allowed with {name} is 0: it knows one size only")


@dataclass(frozen=True, slots=True)
class Progress:
    """Told after every step: `step` of `steps` in all, in epoch `epoch` (from 1)."""

    step: int
    steps: int
    epoch: int
    loss: float


@dataclass(slots=True)
class _Run:
    """What the state file holds."""

    network: MultiExitNetwork
    average: MultiExitNetwork
    optimizer: torch.optim.SGD
    epochs_done: int
    history: list[dict[str, Any]]


def fit(
    config: TrainingConfig,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    validation: tuple[NDArray[np.uint8], NDArray[np.int64]],
    state_path: Path,
    device: str = "cpu",
    compiled: bool = False,
    initial: Mapping[str, Tensor] | None = None,
    progress: Callable[[Progress], None] | None = None,
    epoch_done: Callable[[MultiExitNetwork, list[dict[str, Any]]], None] | None = None,
) -> tuple[MultiExitNetwork, list[dict[str, Any]]]:
    """Train on uint8 images (N, 3, H, W) and return (averaged network, one history entry per epoch).

    Starts from the tensors of `initial` that the network has in the same shape, and from fresh ones otherwise.
    Continues from `state_path` where that holds the same run. Raises TrainingError when it holds another one, and
    when the loss is no longer a number.
    """
    state = _read(state_path, device) if state_path.exists() else None
    if config.bf16 is None:
        as_before = device != "cpu" if state is None else bool(state["fingerprint"]["bf16"])
        config = dataclasses.replace(config, bf16=as_before)
    fingerprint = _fingerprint(config, images, labels)
    run = _start(config, device, initial or {})
    if state is not None:
        _restore(run, state, state_path, fingerprint)
    pixels, targets = torch.from_numpy(images), torch.from_numpy(labels)
    step: Callable[[Tensor, Tensor], Tensor] = _TrainingStep(config, run.network)
    if compiled:
        step = torch.compile(step, dynamic=False)
    for epoch in range(run.epochs_done, config.epochs):
        started = time.perf_counter()
        loss = _train_epoch(config, run, step, pixels, targets, epoch, progress)
        logits = exit_logits(run.average, torch.from_numpy(validation[0]))
        entry = {
            "epoch": epoch + 1,
            "loss": loss,
            "validation_accuracy": list(accuracies(logits, validation[1])),
            "epochs_planned": config.epochs,
            "duration_s": round(time.perf_counter() - started, 1),
        }
        run.history.append(entry)
        run.epochs_done = epoch + 1
        _store(run, state_path, fingerprint)
        if epoch_done is not None:
            epoch_done(run.average, run.history)
    return run.average.eval(), run.history


class _TrainingStep:
    """Loss of one batch; a callable of its own so that it can be compiled whole."""

    def __init__(self, config: TrainingConfig, network: MultiExitNetwork) -> None:
        self.network = network
        self.smoothing = config.label_smoothing
        self.weights = optimise.exit_weights(network.exits)

    def __call__(self, batch: Tensor, targets: Tensor) -> Tensor:
        return optimise.joint_loss(self.network.forward_exits(batch), targets, self.weights, self.smoothing)


def _train_epoch(
    config: TrainingConfig,
    run: _Run,
    loss_of: Callable[[Tensor, Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    epoch: int,
    progress: Callable[[Progress], None] | None,
) -> float:
    """Take one pass over the images in random order and return the mean loss."""
    device = next(run.network.parameters()).device
    generator = torch.Generator().manual_seed(config.seed * 100_003 + epoch)
    order = torch.randperm(len(images), generator=generator)
    per_epoch = max(1, len(images) // config.batch_size)
    steps = per_epoch * config.epochs
    run.network.train()
    crop = config.early_crop if epoch < round(config.early_crop_share * config.epochs) else 0
    total = 0.0
    for number in range(per_epoch):
        step = epoch * per_epoch + number
        rate = optimise.learning_rate_at(step, steps, config.learning_rate)
        for group in run.optimizer.param_groups:
            group["lr"] = rate
        chosen = order[number * config.batch_size : (number + 1) * config.batch_size]
        batch = augment(images[chosen].to(device), config.padding, crop, config.cutout, generator)
        run.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bool(config.bf16)):
            loss = loss_of(batch.contiguous(memory_format=torch.channels_last), labels[chosen].to(device))
        loss.backward()  # type: ignore[no-untyped-call]
        run.optimizer.step()
        optimise.update_average(run.average, run.network, step, config.ema_decay)
        value = loss.item()
        if not math.isfinite(value):
            raise TrainingError(
                f"the loss became {value} in epoch {epoch + 1}; try a lower --lr than {config.learning_rate}"
            )
        total += value
        if progress is not None:
            progress(Progress(step + 1, steps, epoch + 1, value))
    return total / per_epoch


def _start(config: TrainingConfig, device: str, initial: Mapping[str, Tensor]) -> _Run:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = build(config.model)
    own = network.state_dict()
    same = {name: tensor for name, tensor in initial.items() if name in own and own[name].shape == tensor.shape}
    network.load_state_dict(same, strict=False)
    network = network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = copy.deepcopy(network).requires_grad_(False)
    return _Run(network, average, optimise.make_optimizer(network, config.weight_decay), 0, [])


def _fingerprint(config: TrainingConfig, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> dict[str, Any]:
    """What must be the same for a run to be continued, as plain JSON."""
    described = json.loads(json.dumps(dataclasses.asdict(config)))
    del described["epochs"]  # a run may be cut short or lengthened: the rest of the schedule is fitted to that
    return {**described, "training_images": len(images), "training_images_sum": data_sum(images, labels)}


def _differences(there: dict[str, Any], asked: dict[str, Any]) -> list[str]:
    """What differs, each as `key: there -> asked`."""
    before, after = _flat(there), _flat(asked)
    keys = [key for key in {**after, **before} if before.get(key) != after.get(key)]
    if "training_images_sum" in keys:  # follows from other images; so do their mean and deviation
        keys = [key for key in keys if key not in ("model.mean", "model.std")]
    return [f"{key}: {_brief(before.get(key))} -> {_brief(after.get(key))}" for key in keys]


def _brief(value: str | None) -> str:
    if value is None:
        return "not told"  # by one of another version
    return textwrap.shorten(value or "none", 60, placeholder=" ...")


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        elif isinstance(value, list):  # of classes, or of bottlenecks as they are written, CUT:CHANNELS:STRIDE
            entries = (":".join(map(str, e.values())) if isinstance(e, dict) else str(e) for e in value)
            flat[prefix + key] = ", ".join(entries)
        else:
            flat[prefix + key] = str(value)
    return flat


def _store(run: _Run, path: Path, fingerprint: dict[str, Any]) -> None:
    state = {
        "fingerprint": fingerprint,
        "epochs_done": run.epochs_done,
        "history": run.history,
        "network": run.network.state_dict(),
        "average": run.average.state_dict(),
        "optimizer": run.optimizer.state_dict(),
    }
    temporary = path.with_name(path.name + ".part")
    try:
        torch.save(state, temporary)
    except RuntimeError as error:  # torch's own writer does not raise OSError when the disk is full
        raise TrainingError(f"{temporary}: cannot be written ({str(error).splitlines()[0]})") from error
    temporary.replace(path)


def _read(path: Path, device: str) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        # Before runs could tell, all were of fresh weights, and of bf16 on accelerators alone.
        state["fingerprint"] = {"bf16": device != "cpu", "init": "", **state["fingerprint"]}
    except (OSError, RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise TrainingError(f"{path}: not a readable training state; remove it to start anew") from error
    return state


def _restore(run: _Run, state: dict[str, Any], path: Path, fingerprint: dict[str, Any]) -> None:
    theirs = state["fingerprint"]
    if theirs != fingerprint:
        raise TrainingError(
            f"{path}: holds another run ({', '.join(_differences(theirs, fingerprint))}); "
            "give the same options to continue it, or another --out"
        )
    run.network.load_state_dict(state["network"])
    run.average.load_state_dict(state["average"])
    run.optimizer.load_state_dict(state["optimizer"])
    run.epochs_done, run.history = state["epochs_done"], state["history"]
