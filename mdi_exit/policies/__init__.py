"""How a worker decides: the policies by the names that experiment files use.

A policy is a frozen dataclass whose fields are its options; it keeps no state, takes a view (and a random generator)
and returns one small value. To add one: write the class, give it a name here, test it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mdi_exit.policies.admission import AlwaysAdmit, RateAdaptation, ThresholdAdaptation
from mdi_exit.policies.arrivals import BurstyArrivals, ConstantArrivals, PoissonArrivals, RecordedArrivals
from mdi_exit.policies.backpressure import BackPressure, DualBackPressure
from mdi_exit.policies.control import FillQueue, PiControl
from mdi_exit.policies.exit import CalibratedOffloading, DriftPlusPenalty, NeverExit, ThresholdExit
from mdi_exit.policies.learned import LearnedSplit, LearnedThreshold
from mdi_exit.policies.offloading import (
    LeastExpectedDelay,
    MdiExitOffloading,
    NeverOffload,
    OffloadByExit,
    RandomNeighbour,
)
from mdi_exit.policies.over_channel import TransmissionExit
from mdi_exit.policies.transmission import (
    AlwaysTransmit,
    ConfidenceTransmission,
    EntropyTransmission,
    LearnedTransmission,
    NeverTransmit,
    RandomTransmission,
    SnrThreshold,
)

EXIT: Final[Mapping[str, type]] = {
    "threshold": ThresholdExit,
    "never": NeverExit,
    "drift_plus_penalty": DriftPlusPenalty,
    "calibrated_offloading": CalibratedOffloading,
    "splitee": LearnedSplit,
    "adaee": LearnedThreshold,
    "transmission": TransmissionExit,
}
OWN_THRESHOLDS: Final = ("never", "splitee", "adaee", "transmission")  # exit rules to which T_e^k means nothing
TRANSMISSION: Final[Mapping[str, type]] = {
    "always": AlwaysTransmit,
    "never": NeverTransmit,
    "random": RandomTransmission,
    "confidence": ConfidenceTransmission,
    "entropy": EntropyTransmission,
    "snr_threshold": SnrThreshold,
    "learned": LearnedTransmission,
}
OFFLOADING: Final[Mapping[str, type]] = {
    "mdi_exit": MdiExitOffloading,
    "never": NeverOffload,
    "by_exit": OffloadByExit,
    "random_neighbour": RandomNeighbour,
    "least_expected_delay": LeastExpectedDelay,
    "backpressure": BackPressure,
    "dual_backpressure": DualBackPressure,
}
ADMISSION: Final[Mapping[str, type]] = {
    "rate_adaptation": RateAdaptation,
    "threshold_adaptation": ThresholdAdaptation,
    "fill_queue": FillQueue,
    "pi_control": PiControl,
    "always": AlwaysAdmit,
}
ARRIVALS: Final[Mapping[str, type]] = {
    "constant": ConstantArrivals,
    "poisson": PoissonArrivals,
    "bursty": BurstyArrivals,
    "recorded": RecordedArrivals,
}
