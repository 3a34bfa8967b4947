"""inference.GRPCInferenceService: what it tells of the server and its models."""

from importlib.metadata import version

from convscope_proto.inference import grpc_service_pb2 as pb
from convscope_server import codec
from convscope_server.call import Call, Methods, Unary
from convscope_server.lifecycle import Lifecycle, Phase
from convscope_server.open_inference import descriptions
from convscope_server.served_models import Models
from convscope_server.servicers.open_inference import SERVICE, served_model

# Of Triton's, those that are here; tritonclient and perf_analyzer look for them by name.
EXTENSIONS = (
    "classification",
    "model_repository",
    "model_repository(unload_dependents)",
    "schedule_policy",
    "model_configuration",
    "system_shared_memory",
    "binary_tensor_data",
    "parameters",
    "statistics",
    "trace",
    "logging",
)


class OpenInferenceModelsServicer:
    """Answers from the server's phase and its models; keeps no state of its own."""

    def __init__(self, models: Models, lifecycle: Lifecycle) -> None:
        """Take what is asked about."""
        self._models = models
        self._lifecycle = lifecycle

    def methods(self) -> Methods:
        """The service's methods by their full names."""
        return {
            f"/{SERVICE}/ServerLive": Unary(self.server_live),
            f"/{SERVICE}/ServerReady": Unary(self.server_ready),
            f"/{SERVICE}/ServerMetadata": Unary(self.server_metadata),
            f"/{SERVICE}/ModelReady": Unary(self.model_ready),
            f"/{SERVICE}/ModelMetadata": Unary(self.model_metadata),
            f"/{SERVICE}/ModelConfig": Unary(self.model_config),
            f"/{SERVICE}/ModelStatistics": Unary(self.model_statistics),
        }

    async def server_live(self, message: bytes, call: Call) -> bytes:
        """True: whoever can answer is alive."""
        codec.parse(pb.ServerLiveRequest, message)
        return pb.ServerLiveResponse(live=True).SerializeToString()

    async def server_ready(self, message: bytes, call: Call) -> bytes:
        """Whether new requests should come here."""
        codec.parse(pb.ServerReadyRequest, message)
        ready = self._lifecycle.phase is Phase.SERVING
        return pb.ServerReadyResponse(ready=ready).SerializeToString()

    async def server_metadata(self, message: bytes, call: Call) -> bytes:
        """The server's name, version and extensions of the protocol."""
        codec.parse(pb.ServerMetadataRequest, message)
        return pb.ServerMetadataResponse(
            name="convscope", version=version("convscope"), extensions=EXTENSIONS
        ).SerializeToString()

    async def model_ready(self, message: bytes, call: Call) -> bytes:
        """Whether a version of a model, or any if none is named, answers requests."""
        request = codec.parse(pb.ModelReadyRequest, message)
        versions = self._models.versions(request.name or self._models.default_name)
        ready = request.version in versions if request.version else bool(versions)
        ready = ready and self._lifecycle.takes_requests
        return pb.ModelReadyResponse(ready=ready).SerializeToString()

    async def model_metadata(self, message: bytes, call: Call) -> bytes:
        """A model's inputs and outputs."""
        request = codec.parse(pb.ModelMetadataRequest, message)
        self._lifecycle.check_takes_requests()
        model = served_model(self._models, request.name, request.version)
        versions = sorted(self._models.versions(model.name), key=int)
        return descriptions.metadata(model, versions).SerializeToString()

    async def model_config(self, message: bytes, call: Call) -> bytes:
        """A model's configuration."""
        request = codec.parse(pb.ModelConfigRequest, message)
        self._lifecycle.check_takes_requests()
        model = served_model(self._models, request.name, request.version)
        config = descriptions.configuration(model)
        return pb.ModelConfigResponse(config=config).SerializeToString()

    async def model_statistics(self, message: bytes, call: Call) -> bytes:
        """What became of the requests of a version, of a model, or of all."""
        request = codec.parse(pb.ModelStatisticsRequest, message)
        self._lifecycle.check_takes_requests()
        if request.name:
            model = served_model(self._models, request.name, request.version)
            models = [model] if request.version else self._models.versions(model.name).values()
        else:
            models = self._models.all()
        told = [descriptions.statistics(model) for model in models]
        return pb.ModelStatisticsResponse(model_stats=told).SerializeToString()
