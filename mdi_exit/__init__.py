"""MDI-Exit: run one multi-exit neural network across many small devices."""

__version__ = "0.1.0"
