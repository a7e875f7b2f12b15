"""Settings of an experiment that belong together: MDI-Exit as its listing is recalled, and with what mends it.

Each is a mapping for `load_experiment`'s overrides. What is known of each line stands in docs/papers.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

Settings = Mapping[str, Any]

_LISTED: Final = {"rule": "mdi_exit", "output_limit": 50, "first_task": "input", "received_task": "input"}
_REPAIRED: Final = {"rule": "mdi_exit", "output_limit": 5, "first_task": "split", "received_task": "split"}

PAPER_RATE: Final[Settings] = {
    "offloading": _LISTED,
    "admission": {"rule": "rate_adaptation", "first_interarrival_s": 0.02},  # ours: where it starts is not known
}
PAPER_THRESHOLD: Final[Settings] = {"offloading": _LISTED, "admission": "threshold_adaptation"}
# Repaired: any task may move, at any time; the source looks at all data in flight, more often, with lower limits.
REPAIRED_RATE: Final[Settings] = {
    "offloading": _REPAIRED,
    "admission": {
        "rule": "rate_adaptation", "signal": "in_flight", "period_s": 0.2, "queue_low": 10, "queue_high": 30,
        "first_interarrival_s": 0.02,
    },
}  # fmt: skip
REPAIRED_THRESHOLD: Final[Settings] = {
    "offloading": _REPAIRED,
    "admission": {
        "rule": "threshold_adaptation", "period_s": 0.5, "queue_low": 3, "queue_high": 8, "middle": "unchanged",
    },
}  # fmt: skip
