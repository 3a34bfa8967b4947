"""The asyncio client: the surface of client.Client, awaited."""

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

import grpc
from grpc import aio

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
from convscope_client.images import ImageLike, blocks, read_images
from convscope_client.models import Model, ModelList
from convscope_client.results import ClassifyResult, FeatureMap
from convscope_client.status import from_rpc_error
from convscope_proto.v1 import classifier_pb2 as pb
from convscope_proto.v1.classifier_pb2_grpc import ClassifierStub

if TYPE_CHECKING:  # it is only in the stubs' types
    from convscope_proto.v1.classifier_pb2_grpc import ClassifierAsyncStub

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


class AsyncClient:
    """A connection to one server, for one event loop.

    Every method raises what client.Client's method of that name raises.

    Attributes:
        address: Where calls go.
    """

    def __init__(self, address: str | None = None) -> None:
        """Prepare a connection; it is made by the first call, in the loop that runs then.

        Args:
            address: HOST:PORT. Default: the environment's CONVSCOPE_ADDRESS, else 127.0.0.1:8001.
        """
        self.address = server_address(address)
        self._closed = False
        self._channel: aio.Channel | None = None
        self._stub: ClassifierAsyncStub | None = None

    async def classify(
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
        """Classify one image, or several in one request; see client.Client.classify()."""
        if blocks(images):
            sent = await asyncio.to_thread(read_images, images)
        else:
            sent = read_images(images)
        request = messages.classify_request(
            sent,
            top_k=top_k,
            features=features,
            model=model,
            version=version,
            include_scores=include_scores,
            include_probabilities=include_probabilities,
            request_id=request_id,
            priority=priority,
        )
        response = await self._call(self._classifier().Classify, request, timeout_s)
        return messages.classify_result(response)

    async def features(
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
        """Feature maps by layer in the network's order; see client.Client.features()."""
        wish = FeatureRequest(layers, channels, most_active, reduction, dtype)
        result = await self.classify(
            images, top_k=0, features=wish, model=model, version=version, timeout_s=timeout_s
        )
        return {feature_map.layer: feature_map for feature_map in result.feature_maps}

    async def describe(
        self, model: str = "", version: str = "", *, timeout_s: float = 10.0
    ) -> Model:
        """Describe one model: labels, input, layers with their volumes, and its training."""
        request = pb.GetModelRequest(name=model, version=version)
        response = await self._call(self._classifier().GetModel, request, timeout_s)
        return messages.model(response.model)

    async def models(self, *, timeout_s: float = 10.0) -> ModelList:
        """List the models that the server holds, without their layers and metadata."""
        request = pb.ListModelsRequest()
        return messages.model_list(
            await self._call(self._classifier().ListModels, request, timeout_s)
        )

    async def health(self, service: str = "", *, timeout_s: float = 10.0) -> ServingStatus:
        """Whether the server, or one service or model of it by name, serves.

        An unknown name raises NotFound, as grpc.health.v1 says.
        """
        check: aio.UnaryUnaryMultiCallable[str, bytes] = self._connection().unary_unary(
            CHECK_METHOD,
            request_serializer=serialize_request,
            response_deserializer=bytes,
        )
        return deserialize_status(await self._call(check, service, timeout_s))

    async def close(self) -> None:
        """Close the connection; calls in flight end with Unavailable, and so do later ones."""
        self._closed = True
        if self._channel is not None:
            await self._channel.close()

    async def __aenter__(self) -> Self:
        """Return the client itself."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connection."""
        await self.close()

    def _connection(self) -> aio.Channel:
        if self._closed:
            raise Unavailable(f"the connection to {self.address} is closed: make a new client")
        # Not in __init__: grpc.aio binds a channel to the loop that is current then.
        if self._channel is None:
            options = channel_options(self.address)
            self._channel = aio.insecure_channel(self.address, options)
        return self._channel

    def _classifier(self) -> "ClassifierAsyncStub":
        if self._stub is None:
            self._stub = ClassifierStub(self._connection())
        return self._stub

    async def _call(
        self,
        method: "aio.UnaryUnaryMultiCallable[_Request, _Response]",
        request: _Request,
        timeout_s: float,
    ) -> _Response:
        try:
            return await method(request, timeout=timeout_s)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._closed and not (task and task.cancelling()):
                raise Unavailable(f"the connection to {self.address} was closed") from None
            raise
        except grpc.RpcError as error:
            raise from_rpc_error(error, address=self.address, timeout_s=timeout_s) from error
