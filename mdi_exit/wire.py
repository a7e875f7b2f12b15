"""What travels between processes, and what is kept of it: the core's values as msgpack, tensors as raw bytes.

A message on a link is the very effect that caused it (`SendTasks`, `Acknowledge`, `SendResults`, `SendReport`,
`SendThresholds`, `SendPrices`, `SendMeasurements`), so that there is no second family of types. Its frames are a
versioned header and, behind it, the tensors: each a frame, or small ones of a group together in one, as a frame costs
more than copying what is in it. They become arrays without being copied. A feature may be coded (mdi_exit.codec); the
header names how, per frame. `pack` and `unpack` do the same for every event and effect, for journals.

A frozen dataclass travels as {tag: [fields]}; `TABLE` gives each its tag; on links, tasks and results travel as
{tag: [columns]}. Nothing here can run code: unpacking makes numbers, texts, tuples and the dataclasses of the table,
each field checked against its annotation. Whatever a peer gets wrong is a `WireError`; any other exception is our bug.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from mdi_exit import codec
from mdi_exit.core import effects as fx
from mdi_exit.wire_table import (
    IN_COLUMNS,
    LINK_MESSAGES,
    READERS,
    VERSION,
    WRITERS,
    LinkMessage,
    WireError,
)

__all__ = ("LinkMessage", "WireError", "decode", "encode", "pack", "unpack")

HEADER_BYTES_MAX = 1 << 20  # a message of 1024 tasks is 40 KB
# Of all that comes together, one message or several. One alone has a header and a tensor per task at most, of which
# WorkerOptions.group_max allows 1024. MESSAGE_BYTES_MAX holds for what comes, and again for what the tensors become.
FRAMES_MAX = 1 + 1024
TENSOR_BYTES_MAX = 64 << 20  # the largest cut of ResNet-50 at 224x224 is 3.2 MB
MESSAGE_BYTES_MAX = 256 << 20
DIMENSION_MAX = 1 << 20
DIMENSIONS_MAX = 6
PACKED_BYTES_MAX = 16 << 20  # one journal step; the largest names every datum of a run at its end
_TOGETHER_BYTES = 1 << 16  # tensors below this share a frame; 1024 of them are no larger than a tensor may be
_ENTRIES_MAX = 1 << 16  # of one list; bounds what a header of a few bytes can make the decoder allocate

# Bytes as they lie in memory are little-endian on every machine this runs on (x86, Arm); the names say so.
_DTYPES: tuple[np.dtype[Any], ...] = tuple(np.dtype(name) for name in ("|u1", "<f2", "<f4", "|i1"))
_DTYPE_CODE = {dtype: code for code, dtype in enumerate(_DTYPES)}
_FEATURE = np.dtype("<f4")
# What a tensor is described by: the number of its type where it travels as it is, and these where it is coded fp32.
_CODED = {len(_DTYPES): codec.FP16, len(_DTYPES) + 1: codec.INT8}
_CODE = {encoding: code for code, encoding in _CODED.items()}

Tensor = NDArray[Any]
Buffer = bytes | bytearray | memoryview


# ---- messages of a link


def encode(message: LinkMessage, tensors: Sequence[Tensor] = (), encoding: str = codec.FP32) -> list[Buffer]:
    """Return the frames of a message; large tensors that are contiguous are not copied, so leave them be until sent.

    A `SendTasks` goes with either one tensor per task, in order, or none when only its header is of interest. In
    another `encoding` than fp32, features (fp32 tensors) are coded, but those that it cannot hold.
    """
    frames: list[Buffer] = [b""]
    described: list[tuple[int, tuple[int, ...], int]] = []
    if len(tensors) > 1 and _go_together(tensors, encoding):
        frames.append(b"".join([(tensor if tensor.flags.c_contiguous else tensor.copy()).data for tensor in tensors]))
        described.append((_DTYPE_CODE[tensors[0].dtype], tensors[0].shape, len(tensors)))
        tensors = ()
    for tensor in tensors:
        if encoding != codec.FP32 and tensor.dtype == _FEATURE:
            try:
                frames.append(codec.encode(encoding, tensor))
            except codec.CodecError:
                pass  # as it is
            else:
                described.append((_CODE[encoding], tensor.shape, 1))
                continue
        described.append((_DTYPE_CODE[tensor.dtype], tensor.shape, 1))
        whole = tensor if tensor.flags.c_contiguous else np.ascontiguousarray(tensor)
        frames.append(whole.data.cast("B") if tensor.size else b"")
    # Prices are made as floats of 4 bytes: large, told to everybody, and made anew before any digit beyond counts.
    frames[0] = _packed((VERSION, _in_columns(message), described), isinstance(message, fx.SendPrices))
    return frames


def _go_together(tensors: Sequence[Tensor], encoding: str) -> bool:
    shape, dtype = tensors[0].shape, tensors[0].dtype
    if (encoding != codec.FP32 and dtype == _FEATURE) or tensors[0].nbytes >= _TOGETHER_BYTES:
        return False
    return all([tensor.shape == shape and tensor.dtype == dtype for tensor in tensors])


def _in_columns(message: LinkMessage) -> object:
    if (column_tag := IN_COLUMNS.get(type(message))) is None:
        return message
    tag, values = WRITERS[type(message)]
    *others, last = values(message)
    rows: Any = last
    if not rows:
        return message
    _, row_values = WRITERS[type(rows[0])]
    columns = tuple(zip(*[row_values(row) for row in rows], strict=True))
    return {tag: (*others, {column_tag: columns})}


def decode(frames: Sequence[Buffer]) -> Iterator[tuple[LinkMessage, list[Tensor]]]:
    """The messages whose frames came behind each other, each with its tensors: coded ones as fp32 again, others as
    read-only views of the frames.

    Raises WireError where one is bad; what is behind it cannot be read.

    The types are checked, not yet whether the numbers make sense for a network: see `runtime.fit`.
    """
    if not 1 <= len(frames) <= FRAMES_MAX:
        raise WireError(f"{len(frames)} frames; allowed are 1 to {FRAMES_MAX}")
    if sum(map(len, frames)) > MESSAGE_BYTES_MAX:
        raise WireError(f"the message is larger than {MESSAGE_BYTES_MAX} bytes")
    first, left_bytes = 0, MESSAGE_BYTES_MAX  # of what all tensors become: coded ones grow
    while first < len(frames):
        message, described = _header(frames[first])
        payload = frames[first + 1 : first + 1 + len(described)]
        if len(described) != len(payload):
            raise WireError("the header describes another number of tensors than came")
        tensors = _payloads(message, described, payload, left_bytes)
        left_bytes -= sum([tensor.nbytes for tensor in tensors])
        first += 1 + len(described)
        yield message, tensors


def _header(frame: Buffer) -> tuple[LinkMessage, tuple[object, ...]]:
    """A message, and how its tensors are described."""
    content = _unpacked(frame, HEADER_BYTES_MAX)
    if type(content) is not tuple or len(content) != 3:
        raise WireError("the header is not (version, message, tensors)")
    version, message, described = content
    if version != VERSION or type(version) is not int:
        raise WireError(f"the peer speaks version {version!r}, this is version {VERSION}")
    if not isinstance(message, LINK_MESSAGES):
        raise WireError(f"a {type(message).__name__} is no message of a link")
    if type(described) is not tuple:
        raise WireError("the header does not describe the tensors")
    return message, described


def _payloads(
    message: LinkMessage, described: Sequence[object], frames: Sequence[Buffer], left_bytes: int
) -> list[Tensor]:
    """A message's tensors, of no more than `left_bytes` together."""
    most = len(message.tasks) if isinstance(message, fx.SendTasks) else 0
    tensors: list[Tensor] = []
    for entry, frame in zip(described, frames, strict=True):
        together = _tensors(entry, frame, min(left_bytes, TENSOR_BYTES_MAX), most - len(tensors))
        left_bytes -= together.nbytes
        tensors += [together[number, ...] for number in range(len(together))]
    if len(tensors) not in (0, most):
        raise WireError(f"{len(tensors)} tensors with a {type(message).__name__}")
    return tensors


def _tensors(described: object, frame: Buffer, most_bytes: int, most: int) -> Tensor:
    """The tensors of a frame, as one with a dimension more."""
    if type(described) is not tuple or len(described) != 3:
        raise WireError("a tensor is not described as (dtype, shape, count)")
    code, shape, count = described
    if type(count) is not int or not 1 <= count <= most:
        raise WireError(f"{count!r} tensors in a frame, where {most} belong")
    if type(code) is not int or not 0 <= code < len(_DTYPES) + len(_CODED):
        raise WireError(f"unknown tensor type {code!r}")
    if type(shape) is not tuple or len(shape) > DIMENSIONS_MAX:
        raise WireError("a tensor's shape is not a short list")
    size = strides = count
    for dimension in shape:
        if type(dimension) is not int or not 0 <= dimension <= DIMENSION_MAX:
            raise WireError(f"a tensor's dimension is {dimension!r}")
        size *= dimension
        strides *= max(1, dimension)
    if not size and strides > TENSOR_BYTES_MAX:  # numpy works out how far apart its numbers would lie, had it any
        raise WireError(f"a tensor of shape {shape}")
    if code in _CODED:
        if count != 1:
            raise WireError(f"{count} coded features in a frame")
        if _FEATURE.itemsize * size > most_bytes:
            raise WireError(f"a coded feature of shape {shape} is larger than {most_bytes} bytes")
        try:
            return codec.decode(_CODED[code], shape, frame)[np.newaxis]
        except codec.CodecError as error:
            raise WireError(str(error)) from error
    dtype = _DTYPES[code]
    if size * dtype.itemsize != len(frame) or len(frame) > most_bytes:
        raise WireError(f"a tensor of shape {shape} and type {dtype} came as {len(frame)} bytes")
    return np.frombuffer(frame, dtype).reshape((count, *shape))


# ---- any value of the core


def pack(value: object) -> bytes:
    """Return a value as bytes: dataclasses of the table, None, bool, int, float, str, bytes, and tuples of these."""
    return _packed(value)


def unpack(data: Buffer) -> Any:
    """Return what was packed; lists and tuples both come back as tuples. Raises WireError."""
    return _unpacked(data, PACKED_BYTES_MAX)


def _packed(value: object, short_floats: bool = False) -> bytes:
    packed: bytes = msgpack.packb(value, default=_tagged, use_single_float=short_floats)
    return packed


def _tagged(value: object) -> dict[int, tuple[object, ...]]:
    tag, values = WRITERS[type(value)]
    return {tag: values(value)}


def _unpacked(data: Buffer, bytes_max: int) -> Any:
    if len(data) > bytes_max:
        raise WireError(f"{len(data)} bytes; allowed are {bytes_max}")
    try:
        return msgpack.unpackb(
            data,
            use_list=False,
            object_pairs_hook=_untagged,
            strict_map_key=False,
            max_map_len=1,
            max_array_len=_ENTRIES_MAX,
            max_ext_len=0,
        )
    except (ValueError, msgpack.UnpackException) as error:  # all that msgpack raises for bad bytes
        raise WireError(f"not a message: {error}") from error


def _untagged(pairs: list[tuple[object, object]]) -> Any:
    if len(pairs) != 1:
        raise WireError("a map that is no tagged value")
    tag, content = pairs[0]
    read = READERS.get(tag) if type(tag) is int else None
    if read is None:
        raise WireError(f"unknown tag {tag!r}")
    return read(content)
