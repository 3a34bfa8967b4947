"""What the protocol tells of models: metadata, configuration, statistics."""

import json

from convscope_proto.inference import grpc_service_pb2 as pb
from convscope_proto.inference import model_config_pb2 as config_pb
from convscope_server.backend import ModelInfo
from convscope_server.batch_request import PRIORITIES
from convscope_server.open_inference.outputs import CLASS_OUTPUTS
from convscope_server.served_model import ServedModel
from convscope_server.statistics import Duration, ModelStatistics

PLATFORM = "onnxruntime_onnx"
_CONFIG_TYPES = {
    "UINT8": config_pb.TYPE_UINT8,
    "FP16": config_pb.TYPE_FP16,
    "FP32": config_pb.TYPE_FP32,
}


def metadata(model: ServedModel, versions: list[str]) -> pb.ModelMetadataResponse:
    """A model's inputs and outputs; feature maps are not among these: they are asked for by name.

    Clients such as perf_analyzer ask for every output that they are told of.
    """
    info = model.info
    name, datatype, shape, _ = _input(info)
    response = pb.ModelMetadataResponse(name=model.name, versions=versions, platform=PLATFORM)
    response.inputs.add(name=name, datatype=datatype, shape=(-1, *shape))
    for output in CLASS_OUTPUTS:
        response.outputs.add(name=output, datatype="FP32", shape=(-1, len(info.labels)))
    return response


def configuration(model: ServedModel) -> config_pb.ModelConfig:
    """A model's configuration as Triton would tell it, with what is in force.

    The parameters hold what Triton's configuration has no field for: "layers", JSON of
    each layer's name to its shape without N, and "labels", JSON.
    """
    info = model.info
    name, datatype, shape, layout = _input(info)
    config = config_pb.ModelConfig(
        name=model.name,
        platform=PLATFORM,
        backend="onnxruntime",
        max_batch_size=model.max_batch_size,
        default_model_filename="model.onnx",
    )
    config.version_policy.specific.versions.append(int(model.version))
    config.input.add(
        name=name,
        data_type=_CONFIG_TYPES[datatype],
        dims=shape,
        format=config_pb.ModelInput.Format.Value(f"FORMAT_{layout}"),
    )
    for output in CLASS_OUTPUTS:
        config.output.add(name=output, data_type=config_pb.TYPE_FP32, dims=[len(info.labels)])
    kind = "KIND_GPU" if model.execution_provider.startswith("CUDA") else "KIND_CPU"
    config.instance_group.add(
        name=model.name,
        kind=config_pb.ModelInstanceGroup.Kind.Value(kind),
        count=model.worker_count,
    )
    batching = config.dynamic_batching
    batching.max_queue_delay_microseconds = round(model.limits.max_delay_s * 1e6)
    batching.priority_levels = PRIORITIES[-1]
    batching.default_priority_level = model.default_priority
    # Triton counts requests; this queue counts their images.
    batching.default_queue_policy.max_queue_size = model.limits.max_rows
    batching.default_queue_policy.allow_timeout_override = True
    layers = {
        layer.name: [layer.volume.depth, layer.volume.height, layer.volume.width][: layer.rank - 1]
        for layer in info.layers
    }
    for key, value in (("layers", layers), ("labels", info.labels)):
        config.parameters[key].string_value = json.dumps(value)
    return config


def statistics(model: ServedModel) -> pb.ModelStatistics:
    """What became of a model's requests since it was loaded."""
    told: ModelStatistics = model.metrics.statistics
    message = pb.ModelStatistics(
        name=model.name,
        version=model.version,
        last_inference=told.last_request_ms,
        inference_count=told.row_count,
        execution_count=sum(batch.count for batch in told.batches.values()),
    )
    stages = message.inference_stats
    for stage, duration in (
        (stages.success, told.success),
        (stages.fail, told.fail),
        (stages.queue, told.queue),
        (stages.compute_input, told.compute_input),
        (stages.compute_infer, told.compute_infer),
        (stages.compute_output, told.compute_output),
    ):
        _tell(stage, duration)
    for rows, duration in sorted(told.batches.items()):
        _tell(message.batch_stats.add(batch_size=rows).compute_infer, duration)
    return message


def _tell(message: pb.StatisticDuration, duration: Duration) -> None:
    message.count = duration.count
    message.ns = duration.ns


def _input(info: ModelInfo) -> tuple[str, str, tuple[int, ...], str]:
    """Name, datatype, shape of one image, and layout of a model's own input."""
    if info.native:
        datatype = "FP16" if info.native.dtype == "float16" else "FP32"
        return info.native.name, datatype, info.native.shape, info.native.layout
    return info.input_name, "UINT8", (info.height, info.width, info.channels), "NHWC"
