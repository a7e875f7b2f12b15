"""An experiment: validated YAML to frozen objects. Read `experiment`, then `schema`, then `load`."""

from mdi_exit.config.churn import Churn, check_real
from mdi_exit.config.experiment import Experiment, RuntimeSettings
from mdi_exit.config.load import load_experiment
from mdi_exit.config.settings import parse_setting

__all__ = ["Churn", "Experiment", "RuntimeSettings", "check_real", "load_experiment", "parse_setting"]
