"""What a server says of the models it holds."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

# Between the lengths of a volume's sides. Volume's text is 32x32x12 with it for the x.
TIMES = "×"


@dataclass(frozen=True, slots=True)
class Volume:
    """A layer's output for one image: height x width x depth activations."""

    depth: int
    height: int
    width: int

    def __str__(self) -> str:
        """Width, height and depth, as ConvNet courses write a volume."""
        return TIMES.join(map(str, (self.width, self.height, self.depth)))

    @property
    def activation_count(self) -> int:
        """How many activations it holds."""
        return self.depth * self.height * self.width


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer that feature maps can be asked of.

    Attributes:
        name: What they are asked for by, such as "conv1".
        kind: CONV, RELU, POOL, FC; an ONNX operator's name if the file does not tell.
        volume: Its output for one image.
        weight_count: Its weights.
        bias_count: Its biases.
        multiply_add_count: Its multiply-adds for one image.
        notation: Its element in ConvNet notation, such as "CONV(12, 3x3)".
    """

    name: str
    kind: str
    volume: Volume
    weight_count: int
    bias_count: int
    multiply_add_count: int
    notation: str


@dataclass(frozen=True, slots=True)
class FloatInput:
    """What a model's graph itself takes, where that is float: an array of it goes in untouched.

    Attributes:
        dtype: "float32" or "float16".
        layout: "NCHW" or "NHWC".
        shape: Of one image: (C, H, W) or (H, W, C).
    """

    dtype: str
    layout: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ImageInput:
    """What a model takes: uint8 images, 0-255, of one size.

    Attributes:
        height: In pixels.
        width: In pixels.
        channels: 3 for RGB, 1 for grey.
        mean: Per channel, of pixels scaled to 0-1; the model subtracts it itself.
            Empty if the file does not tell.
        std: Per channel; the model divides by it itself.
        float_input: What its graph itself takes; None if that is pixels.
    """

    height: int
    width: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    float_input: FloatInput | None = None


@dataclass(frozen=True, slots=True)
class Model:
    """One model.

    Attributes:
        name: What requests name it by.
        version: Of the model.
        state: LOADING, READY, UNLOADING or UNAVAILABLE.
        state_reason: Why it is not loaded; where it is READY, why its newest file is not.
            Of a model that is not READY this and the lines above are all that is told.
        description: One line for people.
        architecture: In ConvNet notation; empty if the file does not tell.
        input: What it takes.
        labels: One for each class.
        layers: Those that feature maps can be asked of, in the network's order;
            empty in a list of models.
        max_batch_size: Most images that one batch holds; a request may hold more.
        parameter_count: Weights and biases.
        multiply_add_count: For one image.
        training_data: What it was trained on, in words.
        accuracy: Top-1 by a single forward pass, 0-1; None if the file does not tell.
        accuracy_data: What the accuracy was measured on.
        execution_provider: Where it runs, such as "CPUExecutionProvider".
        metadata: Everything that the file says of itself; empty in a list of models.
    """

    name: str
    version: str
    state: str
    state_reason: str
    description: str
    architecture: str
    input: ImageInput
    labels: tuple[str, ...]
    layers: tuple[Layer, ...]
    max_batch_size: int
    parameter_count: int
    multiply_add_count: int
    training_data: str
    accuracy: float | None
    accuracy_data: str
    execution_provider: str
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ModelList:
    """The models that a server holds, by name.

    Attributes:
        models: Without layers and metadata; describe() tells those.
        default_model_name: Answers a request that names no model; empty if none does.
    """

    models: tuple[Model, ...]
    default_model_name: str

    def __iter__(self) -> Iterator[Model]:
        """Go through the models in the order of their names."""
        return iter(self.models)

    def __len__(self) -> int:
        """How many models there are."""
        return len(self.models)
