"""Checkpoints: NAME.safetensors (weights, halves by default) and NAME.json (the card) side by side.

The card holds the weights' SHA-256, so a truncated copy or a card beside the wrong weights is found at load and not
as a bad accuracy later.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from mdi_exit.models.build import build
from mdi_exit.models.card import Card
from mdi_exit.models.files import CheckpointError, files_of, resolve, weights_path
from mdi_exit.models.multi_exit import MultiExitNetwork


def save(path: str | Path, network: MultiExitNetwork, card: Card, half: bool = True) -> Card:
    """Write the pair and return the card as written, with the weights' sum and the number of parameters.

    With `half`, convolution and linear weights become fp16: half the size for no measurable accuracy. What batch
    normalisation holds stays fp32, because running variances can leave fp16's range. Of a card with a base, what the
    base holds is left out.
    """
    weights = weights_path(path)
    weights.parent.mkdir(parents=True, exist_ok=True)
    halved = {name for name, parameter in network.named_parameters() if half and parameter.dim() >= 2}
    kept = f"bottlenecks.{card.model.analog.cut}." if card.base and card.model.analog else ""
    tensors = {
        name: (tensor.half() if name in halved else tensor).detach().cpu().contiguous()
        for name, tensor in network.state_dict().items()
        if name.startswith(kept)
    }
    content = save_tensors(tensors)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    card = dataclasses.replace(card, weights_sha256=hashlib.sha256(content).hexdigest(), parameters=parameters)
    temporary = weights.with_name(weights.name + ".part")
    temporary.write_bytes(content)
    temporary.replace(weights)
    card.save(weights.with_suffix(".json"))
    return card


def load(path: str | Path) -> tuple[MultiExitNetwork, Card]:
    """Load a checkpoint by path or bundled name: the network in fp32 and evaluation mode, and its card.

    Raises CheckpointError or CardError in one line that names the file and what is wrong with it.
    """
    weights = resolve(path)
    card = Card.load(weights.with_suffix(".json"))
    tensors = _tensors(weights, card.weights_sha256, f"{weights.stem}.json")
    for base in files_of(weights, card)[1:]:
        tensors = _tensors(base, card.base_sha256, f"the base that {weights.stem}.json names") | tensors
    network = build(card.model)
    if difference := _first_difference(network.state_dict(), tensors):
        raise CheckpointError(f"{weights}: does not fit the {card.model.architecture} of its card: {difference}")
    with torch.no_grad():
        network.load_state_dict(tensors)
    return network.eval(), card


def _tensors(weights: Path, sum_: str, whose: str) -> dict[str, Tensor]:
    content = weights.read_bytes()
    if (found := hashlib.sha256(content).hexdigest()) != sum_:
        raise CheckpointError(
            f"{weights}: damaged, or not the weights of {whose} (SHA-256 {found[:12]}..., the card says {sum_[:12]}...)"
        )
    try:
        return load_tensors(content)
    except SafetensorError as error:
        raise CheckpointError(f"{weights}: not a readable safetensors file ({error})") from error


def _first_difference(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str | None:
    for name, tensor in wanted.items():
        if name not in found:
            return f"tensor {name} is missing"
        if found[name].shape != tensor.shape:
            return f"tensor {name} has shape {tuple(found[name].shape)} instead of {tuple(tensor.shape)}"
    unknown = [name for name in found if name not in wanted]
    return f"tensor {unknown[0]} is unknown" if unknown else None
