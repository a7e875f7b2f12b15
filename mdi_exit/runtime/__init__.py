"""Runs in real time: worker processes under Ray, direct links between neighbours. Read `cluster`, `launch`, `crew`,
then `actor`, `node`, `exchange`, `links`."""

from mdi_exit.runtime.cluster import Cluster, joined_cluster, local_cluster, run_experiment
from mdi_exit.runtime.record import PHASES, Observer, Progress, RunAborted, RunRecord

__all__ = [
    "PHASES",
    "Cluster",
    "Observer",
    "Progress",
    "RunAborted",
    "RunRecord",
    "joined_cluster",
    "local_cluster",
    "run_experiment",
]
