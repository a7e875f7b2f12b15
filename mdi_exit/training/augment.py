"""Random crop, flip and cutout of a whole uint8 batch at once."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def augment(images: Tensor, padding: int, crop: int, cutout: int, generator: torch.Generator) -> Tensor:
    """Cut a random `crop` square out of each padded image (N, C, H, W), mirror half of them, grey a `cutout` square.

    `crop` 0 keeps the size: the image is shifted by up to `padding` pixels, and its border is mirrored, not black. A
    smaller crop needs no padding. All draws come from `generator`, on the processor, so that a seed gives the same
    batches on every device.
    """
    count, _, height, width = images.shape
    if crop:
        padding = 0
    tall, wide = (crop, crop) if crop else (height, width)
    device = images.device

    def draw(high: int) -> Tensor:
        return torch.randint(high, (count, 1), generator=generator).to(device)

    rows = torch.arange(tall, device=device) + draw(height + 2 * padding - tall + 1)
    columns = torch.arange(wide, device=device) + draw(width + 2 * padding - wide + 1)
    columns = torch.where(draw(2) == 1, columns.flip(1), columns)
    # uint8 has no reflection padding on every device; small integers survive the way through float exactly
    padded = functional.pad(images.float(), [padding] * 4, mode="reflect").to(torch.uint8)
    each = torch.arange(count, device=device).view(-1, 1, 1)
    channels_last = padded.permute(0, 2, 3, 1)
    batch = channels_last[each, rows.unsqueeze(2), columns.unsqueeze(1)].permute(0, 3, 1, 2)
    if cutout > 0:
        down = torch.arange(tall, device=device) - draw(tall)
        across = torch.arange(wide, device=device) - draw(wide)
        hidden = (down.abs() * 2 < cutout).unsqueeze(2) & (across.abs() * 2 < cutout).unsqueeze(1)
        batch = batch.masked_fill(hidden.unsqueeze(1), 127)
    return batch
