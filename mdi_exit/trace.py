"""What every exit said about every datum, recorded once: the simulator's network.

Torch-free. A simulation that replays a trace takes the same decisions as the real network would, at no cost.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from mdi_exit.errors import UserError

SUFFIX = ".trace.npz"
SAMPLE_TRACE = f"-sample{SUFFIX}"  # of the images that are shipped
_ARRAYS = ("confidence", "prediction", "entropy", "label", "payload_bytes", "classes", "card")


class TraceError(UserError):
    """A trace that is missing, damaged or contradicts itself."""


@dataclass(frozen=True, slots=True, eq=False)
class ExitTrace:
    """N data, K exits. Confidences are calibrated: the checkpoint's temperatures are applied."""

    confidence: NDArray[np.float32]  # (N, K), C_k(d) in 0..1
    prediction: NDArray[np.int16]  # (N, K), index into `classes`
    entropy: NDArray[np.float32]  # (N, K), nats
    label: NDArray[np.int16]  # (N,)
    payload_bytes: tuple[int, ...]  # K+1; [0] the raw image, [k] what segment k hands to segment k+1, [K] is 0
    classes: tuple[str, ...]
    card: str  # `Card.identity` of the checkpoint that was recorded

    def __post_init__(self) -> None:
        shape = self.confidence.shape
        if len(shape) != 2 or shape[0] == 0 or shape[1] == 0:
            raise TraceError(f"confidence has shape {shape}; data x exits is needed, at least 1 x 1")
        if self.prediction.shape != shape or self.entropy.shape != shape or self.label.shape != shape[:1]:
            raise TraceError("confidence, prediction, entropy and label disagree about the number of data or exits")
        if len(self.payload_bytes) != shape[1] + 1 or min(self.payload_bytes) < 0:
            raise TraceError(f"payload_bytes must be {shape[1] + 1} sizes for {shape[1]} exits")
        if not (np.all(self.confidence >= 0) and np.all(self.confidence <= 1) and np.all(self.entropy >= 0)):
            raise TraceError("confidence must lie in 0..1 and entropy must not be negative")
        highest = max(int(self.prediction.max()), int(self.label.max()))
        if min(int(self.prediction.min()), int(self.label.min())) < 0 or highest >= len(self.classes):
            raise TraceError(f"prediction and label must lie in 0..{len(self.classes) - 1}")

    def __len__(self) -> int:
        return len(self.label)

    @property
    def exits(self) -> int:
        """K."""
        return int(self.confidence.shape[1])

    def rows(self, numbers: Sequence[int]) -> ExitTrace:
        """These of its data, each as often as it is named; at least one."""
        at = np.asarray(numbers, dtype=np.intp)
        said = (self.confidence[at], self.prediction[at], self.entropy[at])
        return ExitTrace(*said, self.label[at], self.payload_bytes, self.classes, self.card)

    def accuracy(self) -> tuple[float, ...]:
        """Share of right answers of each exit."""
        return tuple(float(share) for share in (self.prediction == self.label[:, None]).mean(axis=0))

    def save(self, path: str | Path) -> None:
        """Write a compressed npz; the same trace gives the same bytes."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".part")
        with temporary.open("wb") as stream:
            np.savez_compressed(
                stream,
                confidence=self.confidence.astype(np.float32),
                prediction=self.prediction.astype(np.int16),
                entropy=self.entropy.astype(np.float32),
                label=self.label.astype(np.int16),
                payload_bytes=np.array(self.payload_bytes, dtype=np.int64),
                classes=np.array(self.classes, dtype=np.str_),
                card=np.array(self.card, dtype=np.str_),
            )
        temporary.replace(path)

    @classmethod
    def load(cls, path: str | Path) -> ExitTrace:
        """Read a trace; raises TraceError in one line that names the file and what is wrong with it."""
        try:
            # opened here, because numpy leaves a damaged file open
            with Path(path).open("rb") as stream, _archive(stream) as content:
                if missing := [name for name in _ARRAYS if name not in content]:
                    raise TraceError(f"array {missing[0]} is missing")
                arrays = {name: content[name] for name in _ARRAYS}
        except FileNotFoundError as error:
            raise TraceError(f"{path}: no such file; `mdi-exit trace` records one") from error
        except TraceError as error:
            raise TraceError(f"{path}: {error}") from error
        except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
            raise TraceError(f"{path}: not a readable trace ({error})") from error
        try:
            return cls(
                arrays["confidence"].astype(np.float32),
                arrays["prediction"].astype(np.int16),
                arrays["entropy"].astype(np.float32),
                arrays["label"].astype(np.int16),
                tuple(int(size) for size in arrays["payload_bytes"]),
                tuple(str(name) for name in arrays["classes"]),
                str(arrays["card"]),
            )
        except TraceError as error:
            raise TraceError(f"{path}: {error}") from error
        except (ValueError, TypeError) as error:
            raise TraceError(f"{path}: arrays of the wrong kind ({error})") from error


def _archive(stream: BinaryIO) -> NpzFile:
    """The arrays of an npz file; numpy would take another file for a pickle, and say how to load that."""
    if not zipfile.is_zipfile(stream):
        raise TraceError("not a readable trace; allowed: a file that `mdi-exit trace` recorded")
    stream.seek(0)
    archive: NpzFile = np.load(stream, allow_pickle=False)
    return archive


_OVER = " over "  # in a trace's identity, before the noise that it was recorded through (channel.identity_over)


def trace_of(model: str | Path, identity: str, exits: int, file: str | Path | None = None) -> tuple[Path, ExitTrace]:
    """The trace of the checkpoint `model` (its weights' file), whose card says `identity`, and where it is.

    That is `file`, or else what lies beside the checkpoint: NAME.trace.npz, or NAME-sample.trace.npz as of the shipped
    one. Raises TraceError when there is none, and for one that was recorded of another network.
    """
    weights = Path(model)
    beside = [weights.with_name(f"{weights.stem}{end}") for end in (SUFFIX, SAMPLE_TRACE)]
    path = Path(file) if file is not None else next((there for there in beside if there.is_file()), None)
    if path is None:
        raise TraceError(
            f"{beside[0]}: no such file, so what the exits of {weights.stem} say is not known; allowed: --trace FILE, "
            f"or record it there: mdi-exit trace {weights} --data IMAGES --out {beside[0]}"
        )
    trace = ExitTrace.load(path)
    if trace.exits != exits:
        raise TraceError(f"{path}: has {trace.exits} exits; allowed: {exits}, as many as {weights.stem}")
    if trace.card != identity:
        of, _, over = trace.card.partition(_OVER)
        wanted, _, wanted_over = identity.partition(_OVER)
        snr, _, fading = wanted_over.partition(" dB")
        anew = f"mdi-exit trace {weights} --data IMAGES --out FILE"
        anew += (f" --snr-db {snr}" if snr else "") + (f" --fading {fading.strip(' ,')}" if fading else "")
        if of == wanted:
            recorded = f"recorded over {over or 'no noisy link'}, the links have {wanted_over or 'no noise'}"
            raise TraceError(f"{path}: {recorded}; allowed: a trace of the same, {anew}")
        raise TraceError(f"{path}: recorded of {of or 'an unnamed network'}; allowed: of {wanted}, {anew}")
    return path, trace
