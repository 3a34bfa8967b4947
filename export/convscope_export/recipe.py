"""How a preset is trained: every setting that changes the result, the seed aside."""

from dataclasses import dataclass
from typing import Literal

Initialization = Literal["torch", "he"]


@dataclass(frozen=True)
class Recipe:
    """AdamW with a linear warm-up and a linear decay to zero, over flipped and shifted images.

    Attributes:
        epochs: Passes over the training images.
        batch_size: Images a step; the last, smaller batch of an epoch is left out.
        learning_rate: Its peak.
        warmup: Part of all steps, 0-1, over which the rate rises from 0 to its peak.
        weight_decay: AdamW's decoupled decay; weights only, not biases.
        label_smoothing: Part of the target, 0-1, spread evenly over all classes.
        flip: Mirror each image left to right with probability 1/2.
        shift: Largest translation, in pixels, in each direction; the border is reflected.
        initialization: Where the weights start: "torch" for PyTorch's own draw, "he" for
            network.he_initialize, which deep networks need.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    warmup: float
    weight_decay: float
    label_smoothing: float
    flip: bool
    shift: int
    initialization: Initialization = "torch"
