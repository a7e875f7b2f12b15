"""How a feature's numbers are written on a link: as they are (fp32), as halves (fp16), or as bytes (int8).

int8 is affine over one feature: 255 steps from its least to its greatest number, these two sent along. A frame names
its encoding, a receiver checks it and has fp32 again; images travel as the bytes that they are. Per link, by
configuration; `auto` takes what arrives first. Ours; that coding should go by the link's speed is QuantPipe's idea.
"""

from __future__ import annotations

import math
import struct
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

FP32: Final = "fp32"
FP16: Final = "fp16"
INT8: Final = "int8"
AUTO: Final = "auto"
ENCODINGS: Final = (FP32, FP16, INT8)
CHOICES: Final = (*ENCODINGS, AUTO)  # of a link
_RANGE = struct.Struct("<ff")  # the number that byte 0 stands for, and the step from one to the next
_STEPS = 255
_FLAT = 2.0**-100  # what lies within this is one number; 1 / step must be one too
_FP16_MAX = 65504.0
_FP32_MAX = float(np.finfo(np.float32).max)
# Seconds that both ends take to code and decode a feature, and each byte of its fp32: four times what one core of a PC
# took for features of 8 to 24 KB (fp16 3.4e-9 per byte; int8 3e-5, and 4e-10 per byte), since devices are slower.
_CODING_S = {FP32: (0.0, 0.0), FP16: (0.0, 1.4e-8), INT8: (1.2e-4, 1.6e-9)}

Feature = NDArray[np.float32]


class CodecError(ValueError):
    """Bytes that are no feature in the encoding that they are said to be in."""


def size_bytes(encoding: str, count: int) -> int:
    """How many bytes `count` numbers take."""
    if encoding == INT8:
        return count + _RANGE.size
    return count * (2 if encoding == FP16 else 4)


def encode(encoding: str, feature: Feature) -> bytes:
    """A feature as bytes; raises CodecError for one that fp16 or int8 cannot hold, which travels as fp32 then."""
    if encoding == FP16:
        if feature.size and not np.abs(feature).max() <= _FP16_MAX:
            raise CodecError("numbers beyond those of fp16")
        halves: bytes = feature.astype("<f2").tobytes()
        return halves
    assert encoding == INT8, encoding
    if not feature.size:
        return _RANGE.pack(0.0, 0.0)
    low, high = float(feature.min()), float(feature.max())
    step = float(np.float32((high - low) / _STEPS)) if high - low > _FLAT else 0.0
    if not abs(low) + _STEPS * step <= _FP32_MAX:
        raise CodecError("numbers that are not finite, or all but")
    steps = np.zeros(feature.shape, np.float32) if step == 0 else (feature - np.float32(low)) * np.float32(1 / step)
    coded: bytes = np.clip(np.rint(steps), 0, _STEPS).astype(np.uint8).tobytes()
    return coded + _RANGE.pack(low, step)


def decode(encoding: str, shape: tuple[int, ...], data: Any) -> Feature:
    """The feature of `encode`'s bytes; raises CodecError for others."""
    if len(data) != size_bytes(encoding, math.prod(shape)):
        raise CodecError(f"{len(data)} bytes of {encoding} for a feature of shape {shape}")
    if encoding == FP16:
        halves = np.frombuffer(data, "<f2")
        if not np.isfinite(halves).all():
            raise CodecError("an fp16 feature that is not finite")
        return halves.astype(np.float32).reshape(shape)
    assert encoding == INT8, encoding
    low, step = _RANGE.unpack(data[-_RANGE.size :])
    if not (step >= 0 and abs(low) + _STEPS * step <= _FP32_MAX):
        raise CodecError("an int8 feature whose range is not finite")
    feature = np.frombuffer(data, np.uint8, count=math.prod(shape)).astype(np.float32)
    feature *= np.float32(step)
    feature += np.float32(low)
    return feature.reshape(shape)


def error_max(encoding: str, feature: Feature) -> float:
    """The most by which a number of this feature can come back another: half a step, and what rounding in fp32 adds."""
    if encoding == FP32 or not feature.size:
        return 0.0
    largest = float(np.abs(feature).max())
    if encoding == FP16:
        return largest * 2**-11 + 2**-25
    return float(feature.max() - feature.min()) / _STEPS * 0.5 + largest * 2**-20 + _FLAT


def fastest(count: int, bandwidth_bps: float | None) -> str:
    """The encoding in which `count` numbers are there first, coding included, over a link of this bandwidth."""
    if bandwidth_bps is None:
        return FP32

    def there_s(encoding: str) -> float:
        once_s, byte_s = _CODING_S[encoding]
        return size_bytes(encoding, count) * 8 / bandwidth_bps + once_s + byte_s * 4 * count

    return min(ENCODINGS, key=there_s)
