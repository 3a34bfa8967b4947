"""The blocking client."""

from collections.abc import Sequence
from types import TracebackType
from typing import Self, TypeVar

import grpc

from convscope_client import messages
from convscope_client.channels import channel_options, server_address
from convscope_client.errors import Unavailable
from convscope_client.feature_request import (
    FeatureDtype,
    FeatureRequest,
    Features,
    Reduction,
)
from convscope_client.health import (
    CHECK_METHOD,
    ServingStatus,
    deserialize_status,
    serialize_request,
)
from convscope_client.images import ImageLike, read_images
from convscope_client.models import Model, ModelList
from convscope_client.results import ClassifyResult, FeatureMap
from convscope_client.status import from_rpc_error
from convscope_proto.v1 import classifier_pb2 as pb
from convscope_proto.v1.classifier_pb2_grpc import ClassifierStub

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


class Client:
    """A connection to one server; may be used from several threads at once.

    Every method raises a ClientError, and nothing else, when the call fails:
    InvalidRequest, NotFound, LimitExceeded, Unauthenticated, Unsupported,
    Overloaded, Unavailable, DeadlineExceeded or ServerError.

    Attributes:
        address: Where calls go.
    """

    def __init__(self, address: str | None = None) -> None:
        """Prepare a connection; it is made by the first call.

        Args:
            address: HOST:PORT. Default: the environment's CONVSCOPE_ADDRESS, else 127.0.0.1:8001.
        """
        self.address = server_address(address)
        self._closed = False
        self._channel = grpc.insecure_channel(self.address, channel_options(self.address))
        self._stub = ClassifierStub(self._channel)

    def classify(
        self,
        images: ImageLike | Sequence[ImageLike],
        *,
        top_k: int = 5,
        features: Features | None = None,
        model: str = "",
        version: str = "",
        include_scores: bool = False,
        include_probabilities: bool = False,
        request_id: str = "",
        priority: int = 0,
        timeout_s: float = 10.0,
    ) -> ClassifyResult:
        """Classify one image, or several in one request.

        Args:
            images: A path, the bytes of a picture file, a PIL image, pixels as a numpy
                array (uint8, (H, W, 3) or (N, H, W, 3), RGB, 0-255, H and W exactly the
                model's), or a list of these.
            top_k: How many of the most probable classes to return for each image.
            features: Feature maps to return beside the scores: layer names, patterns such
                as "conv*", "all", or a FeatureRequest; one of these or several.
            model: The model's name; empty for the server's default model.
            version: The model's version; empty for the one that the server chooses.
            include_scores: Also return every class's raw score.
            include_probabilities: Also return every class's probability.
            request_id: Comes back unchanged in the result; for the caller's own use.
            priority: 1 to 9, 1 served first; 0 for the model's default. A level is worth one
                second of waiting.
            timeout_s: Deadline of the call, in seconds. The server drops what is still
                queued by then.
        """
        request = messages.classify_request(
            read_images(images),
            top_k=top_k,
            features=features,
            model=model,
            version=version,
            include_scores=include_scores,
            include_probabilities=include_probabilities,
            request_id=request_id,
            priority=priority,
        )
        return messages.classify_result(self._call(self._stub.Classify, request, timeout_s))

    def features(
        self,
        images: ImageLike | Sequence[ImageLike],
        layers: str | Sequence[str],
        *,
        channels: Sequence[int] | None = None,
        most_active: int | None = None,
        reduction: Reduction | None = None,
        dtype: FeatureDtype = "float32",
        model: str = "",
        version: str = "",
        timeout_s: float = 10.0,
    ) -> dict[str, FeatureMap]:
        """Feature maps of one image, or of several, by layer in the network's order.

        Args:
            images: As for classify().
            layers: Layer names, patterns such as "conv*", or "all"; one, or several.
            channels: Channel indices, from 0; default: all.
            most_active: For each image, this many channels with the highest mean activation.
            reduction: "mean" or "max" over the channels.
            dtype: "float32", "float16", or "uint8", which scales each image's values to 0-255.
            model: As for classify().
            version: As for classify().
            timeout_s: As for classify().
        """
        wish = FeatureRequest(layers, channels, most_active, reduction, dtype)
        result = self.classify(
            images, top_k=0, features=wish, model=model, version=version, timeout_s=timeout_s
        )
        return {feature_map.layer: feature_map for feature_map in result.feature_maps}

    def describe(self, model: str = "", version: str = "", *, timeout_s: float = 10.0) -> Model:
        """Describe one model: labels, input, layers with their volumes, and its training."""
        request = pb.GetModelRequest(name=model, version=version)
        return messages.model(self._call(self._stub.GetModel, request, timeout_s).model)

    def models(self, *, timeout_s: float = 10.0) -> ModelList:
        """List the models that the server holds, without their layers and metadata."""
        request = pb.ListModelsRequest()
        return messages.model_list(self._call(self._stub.ListModels, request, timeout_s))

    def health(self, service: str = "", *, timeout_s: float = 10.0) -> ServingStatus:
        """Whether the server, or one service or model of it by name, serves.

        An unknown name raises NotFound, as grpc.health.v1 says.
        """
        check = self._channel.unary_unary(
            CHECK_METHOD,
            request_serializer=serialize_request,
            response_deserializer=bytes,
        )
        return deserialize_status(self._call(check, service, timeout_s))

    def close(self) -> None:
        """Close the connection; calls in flight end with Unavailable, and so do later ones."""
        self._closed = True
        self._channel.close()

    def __enter__(self) -> Self:
        """Return the client itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connection."""
        self.close()

    def _call(
        self,
        method: "grpc.UnaryUnaryMultiCallable[_Request, _Response]",
        request: _Request,
        timeout_s: float,
    ) -> _Response:
        if self._closed:
            raise Unavailable(f"the connection to {self.address} is closed: make a new client")
        try:
            return method(request, timeout=timeout_s)
        except grpc.RpcError as error:
            raise from_rpc_error(error, address=self.address, timeout_s=timeout_s) from error
