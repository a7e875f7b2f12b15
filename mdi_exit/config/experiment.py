"""What an experiment is, once everything is checked and resolved."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le, MinLen

from mdi_exit import policies
from mdi_exit.config.churn import Churn
from mdi_exit.core.types import Limits, WorkerOptions
from mdi_exit.core.views import AdmissionPolicy, ArrivalProcess, ExitPolicy, OffloadingPolicy
from mdi_exit.devices import DeviceProfile
from mdi_exit.topology import Topology

PORT_MAX = 65535
_Address = Annotated[str, MinLen(1)]


@dataclass(frozen=True, slots=True)
class RuntimeSettings:
    """How a run in real time is carried out; nothing here changes what is decided.

    Defaults: ONNX Runtime on the processor (torch can use a GPU; "auto" does so where a worker finds one, and several
    on one machine share it), one thread per worker, links encrypted, ports chosen by the operating system (given ones
    must not need privileges; the topology's i-th worker listens i above `port_base`), no journal. What is
    not to be emulated ("links": devices are not, "none": neither) is taken for what the machines and links really are,
    as `mdi-exit profile` measured them: a plan and a simulation count with it, a run paces no worker, holds no frame.
    """

    backend: Literal["onnx", "torch"] = "onnx"
    device: Literal["cpu", "cuda", "auto"] = "cpu"
    encrypt: bool = True
    port_base: Annotated[int, Ge(1024), Le(PORT_MAX)] | None = None
    journal: bool = False
    emulate: Literal["all", "links", "none"] = "all"
    threads_per_worker: Annotated[int, Ge(1), Le(256)] = 1
    workers: Mapping[str, _Address] = field(default_factory=dict, hash=False)  # worker: the address of its machine


@dataclass(frozen=True, slots=True)
class Experiment:
    """Everything that decides what a run does. `load_experiment` makes one; simulation and real time share it.

    Defaults of a file, for rates and durations: thresholds 0.8, 20 s of admission, at most 30 s more for what is in
    flight, no limit on the data; links as fast as the machine can, no device profiles; admission by Algorithm 3.
    """

    name: str
    file: str  # where it was read; empty when made of defaults and settings alone
    seed: int
    model: str  # path of the checkpoint's weights; its card lies beside it
    dataset: str  # "sample", a public set's name, or a path
    resize: bool  # images of another size than the network's are cropped to a square and resized; else refused
    topology: Topology
    hosted: Mapping[str, tuple[int, ...]]  # worker: the segments placed there
    devices: Mapping[str, DeviceProfile | None]  # worker: how it is paced, if it is
    thresholds: tuple[float, ...]  # T_e^k, k = 1..K-1
    exit: ExitPolicy
    offloading: OffloadingPolicy
    admission: AdmissionPolicy
    arrivals: ArrivalProcess | None  # exactly when admission.wants_arrivals
    worker_options: Mapping[str, WorkerOptions]
    limits: Limits
    duration_s: float  # admission stays open this long
    drain_s: float  # what is in flight then has this long to be answered
    data_max: int | None  # admission closes after so many data
    churn: tuple[Churn, ...]  # for simulations: who comes and goes
    runtime: RuntimeSettings
    by_hand: tuple[str, ...] = ()  # workers whose slices were given by name, in the experiment or its topology

    @property
    def exits(self) -> int:
        """K."""
        return len(self.thresholds) + 1

    def policy_names(self) -> dict[str, str | None]:
        """The rules by the names of experiment files, for the run report."""
        return {
            "exit": _rule(policies.EXIT, self.exit),
            "offloading": _rule(policies.OFFLOADING, self.offloading),
            "admission": _rule(policies.ADMISSION, self.admission),
            "arrivals": _rule(policies.ARRIVALS, self.arrivals) if self.arrivals else None,
        }

    def plain(self) -> dict[str, Any]:
        """The experiment as JSON-able data, for the run report: every value, also the defaulted ones."""
        rules = self.policy_names()
        chosen = {"exit": self.exit, "offloading": self.offloading, "admission": self.admission}
        return {
            "name": self.name,
            "file": self.file,
            "seed": self.seed,
            "model": self.model,
            "dataset": self.dataset,
            "resize": self.resize,
            "topology": self.topology.plain(),
            "hosted": {worker: list(segments) for worker, segments in self.hosted.items()},
            "devices": {worker: profile.name if profile else None for worker, profile in self.devices.items()},
            "thresholds": list(self.thresholds),
            **{key: {"rule": rules[key], **_options(policy)} for key, policy in chosen.items()},
            "arrivals": {"rule": rules["arrivals"], **_options(self.arrivals)} if self.arrivals else None,
            "worker": {worker: _options(options) for worker, options in self.worker_options.items()},
            "limits": _options(self.limits),
            "duration_s": self.duration_s,
            "drain_s": self.drain_s,
            "data_max": self.data_max,
            "churn": [_options(change) for change in self.churn],
            "runtime": _options(self.runtime),
        }


def _options(record: Any) -> dict[str, Any]:
    values = dataclasses.asdict(record)
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def _rule(registry: Mapping[str, type], policy: object) -> str:
    return next(name for name, kind in registry.items() if type(policy) is kind)
