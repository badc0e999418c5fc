"""Progress: how far an operation is, told to a function, a bar and the log."""

from ebooklet_tx.progress.event import Listener, Progress, ProgressOption
from ebooklet_tx.progress.reporter import EVERY_SECONDS, Phase, Reporter, telling, telling_each

__all__ = [
    "EVERY_SECONDS",
    "Listener",
    "Phase",
    "Progress",
    "ProgressOption",
    "Reporter",
    "telling",
    "telling_each",
]
