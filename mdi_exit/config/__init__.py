"""An experiment: validated YAML to frozen objects. Read `experiment`, then `schema`, then `load`.

What workers are handed is here; reading files takes models that a small device need not carry.
"""

from mdi_exit.config.churn import Churn, check_real
from mdi_exit.config.experiment import Experiment, RuntimeSettings

__all__ = ["Churn", "Experiment", "RuntimeSettings", "check_real"]
