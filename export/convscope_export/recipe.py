"""How a preset is trained: every setting that changes the result, the seed aside."""

from dataclasses import dataclass
from typing import Literal

Initialization = Literal["torch", "he"]
Optimizer = Literal["adamw", "sgd"]
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Recipe:
    """A linear warm-up and a linear decay to zero, over images that are varied at random.

    Attributes:
        epochs: Passes over the training images.
        batch_size: Images a step; the last, smaller batch of an epoch is left out.
        learning_rate: Its peak.
        warmup: Part of all steps, 0-1, over which the rate rises from 0 to its peak.
        weight_decay: AdamW's decoupled decay, or SGD's; weights only, not biases.
        label_smoothing: Part of the target, 0-1, spread evenly over all classes.
        flip: Mirror each image left to right with probability 1/2.
        shift: Largest translation, in pixels, in each direction; the border is reflected.
        cutout: Side, in pixels, of a square that is blotted out of each image; 0 for none
            (DeVries and Taylor, Improved Regularization of Convolutional Neural Networks
            with Cutout, 2017).
        optimizer: "adamw", or "sgd" with a Nesterov momentum of 0.9.
        batch_norm: Normalise each convolution's output while training; afterwards this is
            folded into the convolution (Ioffe and Szegedy, Batch Normalization, 2015).
        average: Decay a step, 0-1, of the exponential moving average of the weights that is
            kept as the result; 0 keeps the last weights themselves.
        precision: What convolutions and their gradients are computed in while training;
            weights are float32 throughout. bfloat16 pays where the processor computes in it
            (AMX, AVX-512 BF16, CUDA).
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
    cutout: int = 0
    optimizer: Optimizer = "adamw"
    batch_norm: bool = False
    average: float = 0.0
    precision: Precision = "float32"
