"""The parts of the optimisation that are plain arithmetic: schedule, averaged weights, parameter groups, loss."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

WARM_UP_SHARE = 0.1  # of all steps
FIRST_EXIT_WEIGHT = 0.3


def learning_rate_at(step: int, steps: int, peak: float) -> float:
    """Rise linearly over the first tenth of the steps, then fall as half a cosine to zero."""
    warm_up = max(1, round(WARM_UP_SHARE * steps))
    if step < warm_up:
        return peak * (step + 1) / warm_up
    return peak * 0.5 * (1.0 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def exit_weights(exits: int) -> tuple[float, ...]:
    """Weigh the exits' losses from 0.3 for the first to 1 for the last.

    Equal weights let the many early exits pull the shared layers towards what they can do at once, and the last exit
    pays for it; it has to stay the best.
    """
    return tuple(FIRST_EXIT_WEIGHT + (1.0 - FIRST_EXIT_WEIGHT) * k / max(1, exits - 1) for k in range(exits))


def joint_loss(logits: Sequence[Tensor], labels: Tensor, weights: Sequence[float], smoothing: float) -> Tensor:
    """Weighted sum of every exit's cross-entropy."""
    losses = [functional.cross_entropy(each.float(), labels, label_smoothing=smoothing) for each in logits]
    return torch.stack([weight * loss for weight, loss in zip(weights, losses, strict=True)]).sum()


def make_optimizer(network: nn.Module, weight_decay: float) -> torch.optim.SGD:
    """SGD with Nesterov momentum; only convolution and linear weights decay."""
    decayed = [parameter for parameter in network.parameters() if parameter.dim() >= 2]
    free = [parameter for parameter in network.parameters() if parameter.dim() < 2]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=0.0, momentum=0.9, nesterov=True)


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, step: int, decay: float) -> None:
    """Move the averaged weights and batch statistics towards the network's.

    The decay grows with the steps taken, so that a short run is not an average of its own beginning.
    """
    share = 1.0 - min(decay, (1.0 + step) / (10.0 + step))
    theirs = network.state_dict()
    mine = average.state_dict()
    floating = [name for name, tensor in mine.items() if tensor.is_floating_point()]
    torch._foreach_lerp_([mine[name] for name in floating], [theirs[name] for name in floating], share)
    for name, tensor in mine.items():
        if not tensor.is_floating_point():
            tensor.copy_(theirs[name])
