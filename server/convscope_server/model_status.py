"""Where a version of a model stands."""

from dataclasses import dataclass
from enum import Enum


class ModelState(Enum):
    """Triton's states of a model version."""

    LOADING = 1
    READY = 2
    # Takes no new requests; those that hold it finish.
    UNLOADING = 3
    UNAVAILABLE = 4


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One version's state.

    Attributes:
        version: Its number; empty where the whole model is meant.
        reason: Why it is not served, or why its newest file is not; one line.
    """

    name: str
    version: str
    state: ModelState
    reason: str = ""
