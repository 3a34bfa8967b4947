"""What a ModelInferRequest asks for, how large that is, and its writing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from convscope_proto.inference import grpc_service_pb2 as pb
from convscope_server.backend import PROBABILITIES, SCORES, Float32Array, LayerInfo, ModelInfo
from convscope_server.errors import InvalidRequest, shortened
from convscope_server.feature_maps import MapAnswer, MapPlan, MapRequest, Reduction, value_bytes
from convscope_server.open_inference.parameters import Parameters, integer, text
from convscope_server.open_inference.tensors import (
    BYTES,
    DATATYPES,
    DTYPES,
    Array,
    to_bytes,
)
from convscope_server.shared_memory import Place, SharedMemory

# What a model's metadata lists, and a request gets that names none.
CLASS_OUTPUTS = (SCORES, PROBABILITIES)
_MAP_DATATYPES = ("FP32", "FP16", "UINT8")
_REDUCTIONS = {"mean": Reduction.MEAN, "max": Reduction.MAX}
_MAP_PARAMETERS = ("datatype", "reduction", "channels", "most_active")
_MEMORY_PARAMETERS = (
    "shared_memory_region",
    "shared_memory_byte_size",
    "shared_memory_offset",
)
# Of the protocol over HTTP, and of MLServer's clients; others may be slips of the pen.
_IGNORED_PARAMETERS = ("binary_data", "content_type")
_MAX_CLASSIFICATION_ELEMENTS = 1_000_000
# At most, what the wire adds to an output, to a class's label, to an image, to the answer.
_OUTPUT_BYTES = 256
_CLASS_BYTES = 80
_ROW_BYTES = 40
_CHANNEL_BYTES = 8
_RESPONSE_BYTES = 1024


@dataclass(frozen=True, slots=True)
class Output:
    """One output that a request asks for.

    Attributes:
        name: "scores", "probabilities" or a layer's.
        top_k: Of the classification extension: answer with this many classes as text;
            0 for numbers.
        place: Where the answer goes instead of the message; None for the message.
        map: What is asked for of a layer; None for scores and probabilities.
    """

    name: str
    top_k: int
    place: Place | None
    map: MapRequest | None


class Outputs:
    """What one request asks for.

    Attributes:
        plan: Its feature maps.
    """

    def __init__(
        self, request: pb.ModelInferRequest, info: ModelInfo, memory: SharedMemory, peer: str
    ) -> None:
        """Read the requested outputs; none are scores and probabilities.

        Args:
            request: What is asked for.
            info: The model.
            memory: Where outputs may be wanted instead of in the answer.
            peer: The caller's address.

        Raises:
            InvalidRequest: One of them is unknown or named twice, or its parameters are not
                what they should be.
            ServerError: As in SharedMemory.place.
        """
        self._info = info
        self._outputs: Sequence[Output] = _DEFAULT
        if request.outputs:
            layers = {layer.name: layer for layer in info.layers}
            most = len(layers) + len(CLASS_OUTPUTS)
            # Before they are looked at: millions fit into a message.
            if len(request.outputs) > most:
                raise InvalidRequest(
                    f"expected every requested output once, {most} at most, got "
                    f"{len(request.outputs)}"
                )
            self._outputs = [_output(wanted, layers, memory, peer) for wanted in request.outputs]
            names = {output.name for output in self._outputs}
            if len(names) < len(self._outputs):
                raise InvalidRequest("expected every requested output once")
        self.plan = MapPlan([output.map for output in self._outputs if output.map], info)

    def answer_bytes(self, request_id: str, rows: int) -> tuple[int, int]:
        """Size of the answer, at most; known before anything runs.

        Returns:
            Of its message, and of what goes into shared memory instead.

        Raises:
            InvalidRequest: A region of shared memory is too small for its output, or a
                classification has too many classes in all.
        """
        size_bytes, placed_bytes = _RESPONSE_BYTES + 4 * len(request_id), 0
        sizes = iter(self.plan.items)
        for output in self._outputs:
            size_bytes += _OUTPUT_BYTES + 4 * len(output.name)
            layer, wish = next(sizes) if output.map else (None, None)
            if output.top_k:
                output_bytes = self._classification_bytes(output, layer, rows)
            elif layer and wish:
                output_bytes = value_bytes(layer, wish, rows)
                listed = wish.listed_channel_count(layer.volume.depth)
                size_bytes += rows * (_ROW_BYTES + listed * _CHANNEL_BYTES)
            else:
                output_bytes = rows * len(self._info.labels) * 4
            if not output.place:
                size_bytes += output_bytes
                continue
            placed_bytes += output_bytes
            if not output.top_k and output_bytes > output.place.size_bytes:
                raise InvalidRequest(
                    f"output {output.name!r}: expected a shared_memory_byte_size of at least "
                    f"{output_bytes}, got {output.place.size_bytes}"
                )
        return size_bytes, placed_bytes

    def write(self, response: pb.ModelInferResponse, outputs: Mapping[str, Float32Array]) -> None:
        """Write the outputs into their response, in the order in which they were asked for.

        Args:
            response: To write into.
            outputs: Scores, probabilities and the plan's tensors by name, float32.

        Raises:
            InvalidRequest: One does not fit into its shared memory.
        """
        answers = iter(self.plan.answers(outputs))
        for output in self._outputs:
            tensor = response.outputs.add(name=output.name)
            if output.map:
                answer = next(answers)
                values: Array = answer.values
                _tell_channels(tensor.parameters, answer)
            else:
                values = outputs[output.name]
            if output.top_k:
                elements = self._classes(output, values)
                shape: Sequence[int] = (len(values), len(elements) // len(values))
                tensor.datatype, data = BYTES, memoryview(to_bytes(elements))
            else:
                little = values.dtype.newbyteorder("<")
                values = np.ascontiguousarray(values, little)
                shape, tensor.datatype, data = values.shape, DATATYPES[little], values.data
            tensor.shape.extend(shape)
            if place := output.place:
                place.write(data)
                tensor.parameters["shared_memory_region"].string_param = place.region
                tensor.parameters["shared_memory_byte_size"].int64_param = data.nbytes
                if place.offset:
                    tensor.parameters["shared_memory_offset"].int64_param = place.offset
            response.raw_output_contents.append(b"" if place else data.tobytes())

    def _classification_bytes(self, output: Output, layer: LayerInfo | None, rows: int) -> int:
        class_count = layer.volume.depth if layer else len(self._info.labels)
        elements = rows * min(output.top_k, class_count)
        if elements > _MAX_CLASSIFICATION_ELEMENTS:
            raise InvalidRequest(
                f"output {output.name!r}: expected at most {_MAX_CLASSIFICATION_ELEMENTS} classes "
                f"in all, got {elements}"
            )
        return elements * (self._info.longest_label_bytes + _CLASS_BYTES)

    def _classes(self, output: Output, values: Array) -> list[bytes]:
        """The largest values of each row with their indices, and labels where these are classes.

        docs/protocol/extension_classification.md of Triton: "value:index" or
        "value:index:label", the value as C's %f prints it.
        """
        labels = self._info.labels if output.map is None else None
        order = np.argsort(-values, axis=1, kind="stable")[:, : output.top_k]
        return [
            f"{row[index]:f}:{index}{f':{labels[index]}' if labels else ''}".encode(
                errors="replace"
            )
            for row, indices in zip(values.tolist(), order.tolist(), strict=True)
            for index in indices
        ]


_DEFAULT = tuple(Output(name, top_k=0, place=None, map=None) for name in CLASS_OUTPUTS)


def _output(
    wanted: pb.ModelInferRequest.InferRequestedOutputTensor,
    layers: Mapping[str, LayerInfo],
    memory: SharedMemory,
    peer: str,
) -> Output:
    name, parameters = wanted.name, wanted.parameters
    is_layer = name not in CLASS_OUTPUTS
    if is_layer and name not in layers:
        raise InvalidRequest(
            f"unexpected inference output {name[:100]!r}: expected scores, probabilities or a "
            f"layer, one of {shortened(layers)}"
        )
    if not parameters:
        return Output(name, 0, None, MapRequest(layers=(name,)) if is_layer else None)
    known = ("classification", *_MEMORY_PARAMETERS, *(_MAP_PARAMETERS if is_layer else ()))
    for parameter in parameters:
        if parameter not in (*known, *_IGNORED_PARAMETERS):
            raise InvalidRequest(
                f"output {name!r}: expected a parameter of {', '.join(known)}, "
                f"got {parameter[:100]!r}"
            )
    wish = _map_request(layers[name], parameters) if is_layer else None
    top_k = 0
    if (count := integer(parameters, "classification")) is not None:
        if count < 1:
            raise InvalidRequest(f"output {name!r}: expected a classification of at least 1")
        if wish and (layers[name].rank != 2 or wish != MapRequest(layers=(name,))):
            raise InvalidRequest(
                f"output {name!r}: expected classification of scores, probabilities or a fully "
                "connected layer, without other parameters"
            )
        top_k = count
    return Output(name, top_k, _place(name, parameters, memory, peer), wish)


def _place(name: str, parameters: Parameters, memory: SharedMemory, peer: str) -> Place | None:
    region = text(parameters, "shared_memory_region")
    if region is None:
        return None
    size_bytes = integer(parameters, "shared_memory_byte_size")
    if size_bytes is None:
        raise InvalidRequest(
            f"output {name!r}: expected shared_memory_byte_size with shared_memory_region"
        )
    offset = integer(parameters, "shared_memory_offset") or 0
    return memory.place(region, offset, size_bytes, peer=peer)


def _map_request(layer: LayerInfo, parameters: Parameters) -> MapRequest:
    name = layer.name
    datatype = text(parameters, "datatype") or "FP32"
    reduction = text(parameters, "reduction")
    if datatype not in _MAP_DATATYPES or reduction not in (None, *_REDUCTIONS):
        raise InvalidRequest(
            f"output {name!r}: expected a datatype of {', '.join(_MAP_DATATYPES)} and a reduction "
            f"of {', '.join(_REDUCTIONS)}, got {datatype[:100]!r} and {(reduction or '')[:100]!r}"
        )
    channels = text(parameters, "channels")
    most_active = integer(parameters, "most_active")
    if channels is not None and most_active is not None:
        raise InvalidRequest(f"output {name!r}: expected channels or most_active, got both")
    if most_active is not None and most_active < 1:
        raise InvalidRequest(f"output {name!r}: expected most_active of at least 1")
    return MapRequest(
        layers=(name,),
        channels=None if channels is None else _channels(layer, channels),
        most_active=most_active,
        reduction=_REDUCTIONS[reduction] if reduction else Reduction.NONE,
        dtype=DTYPES[datatype],
    )


def _channels(layer: LayerInfo, listed: str) -> tuple[int, ...]:
    depth = layer.volume.depth
    # Counted before they are taken apart: millions fit into a message.
    numbers = [] if listed.count(",") >= depth else listed.split(",")
    if not all(n.strip().isdecimal() and len(n) < 10 for n in numbers):
        numbers = []
    channels = tuple(map(int, numbers))
    if not channels or len(set(channels)) < len(channels):
        raise InvalidRequest(
            f"output {layer.name!r}: expected channels such as 0,3,7, each once, {depth} at most, "
            f"got {listed[:100]!r}"
        )
    return channels


def _tell_channels(parameters: Parameters, answer: MapAnswer) -> None:
    """Which channels an answer holds, and how to scale it back; images apart by semicolons."""
    if answer.channels is not None:
        rows = (",".join(map(str, row)) for row in answer.channels.tolist())
        parameters["channels"].string_param = ";".join(rows)
    for name, values in (("scale", answer.scale), ("offset", answer.offset)):
        if values is not None:
            parameters[name].string_param = ";".join(map(repr, values.tolist()))
