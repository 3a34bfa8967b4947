"""inference.GRPCInferenceService: the calls for the model repository."""

import logging

from convscope_proto.inference import grpc_service_pb2 as pb
from convscope_server import codec
from convscope_server.call import Call, Methods, Unary
from convscope_server.errors import InvalidRequest, ModelError, NotReady, Unsupported
from convscope_server.lifecycle import Lifecycle
from convscope_server.model_status import ModelState, ModelStatus
from convscope_server.repository import Repository
from convscope_server.servicers.open_inference import SERVICE

log = logging.getLogger(__name__)


class OpenInferenceRepositoryServicer:
    """Triton's model control, for those whom the server's mode lets use it."""

    def __init__(
        self,
        repository: Repository,
        lifecycle: Lifecycle,
        *,
        allows_control: bool,
    ) -> None:
        """Take what is asked of; allows_control is the mode "explicit"."""
        self._repository = repository
        self._lifecycle = lifecycle
        self._allows_control = allows_control

    def methods(self) -> Methods:
        """The service's methods by their full names."""
        return {
            f"/{SERVICE}/RepositoryIndex": Unary(self.index),
            f"/{SERVICE}/RepositoryModelLoad": Unary(self.load),
            f"/{SERVICE}/RepositoryModelUnload": Unary(self.unload),
        }

    async def index(self, message: bytes, call: Call) -> bytes:
        """Every model of the repository, loaded or not."""
        request = codec.parse(pb.RepositoryIndexRequest, message)
        _check_repository(request.repository_name)
        response = pb.RepositoryIndexResponse()
        for entry in await self._repository.index():
            if isinstance(entry, ModelStatus):
                if entry.state is ModelState.READY or not request.ready:
                    response.models.add(
                        name=entry.name,
                        version=entry.version,
                        state=entry.state.name,
                        reason=entry.reason,
                    )
            elif not request.ready:
                response.models.add(name=entry)
        return response.SerializeToString()

    async def load(self, message: bytes, call: Call) -> bytes:
        """Load a model, or reload it if its files have changed."""
        request = codec.parse(pb.RepositoryModelLoadRequest, message)
        self._check_control(request.repository_name)
        for name in request.parameters:
            if name == "config" or name.startswith("file:"):
                raise Unsupported(
                    f"load parameter {name[:100]!r} is not supported: put the model and its "
                    "config.pbtxt into the repository folder"
                )
            raise InvalidRequest(
                f"expected no load parameter but config and file:…, got {name[:100]!r}"
            )
        try:
            await self._repository.load(request.model_name)
        except ModelError as error:
            log.error("%s; what was served before stays", error)
            raise
        return pb.RepositoryModelLoadResponse().SerializeToString()

    async def unload(self, message: bytes, call: Call) -> bytes:
        """Unload a model; that of one that is not loaded succeeds, as Triton's does."""
        request = codec.parse(pb.RepositoryModelUnloadRequest, message)
        self._check_control(request.repository_name)
        for name in request.parameters:
            if name != "unload_dependents":  # no model here has dependents
                raise InvalidRequest(
                    f"expected no unload parameter but unload_dependents, got {name[:100]!r}"
                )
        await self._repository.unload(request.model_name)
        return pb.RepositoryModelUnloadResponse().SerializeToString()

    def _check_control(self, repository_name: str) -> None:
        _check_repository(repository_name)
        if not self._allows_control:
            # The first words are Triton's, for both of its other modes.
            raise NotReady(
                "explicit model load / unload is not allowed if polling is enabled: "
                "start the server with --model-control explicit"
            )
        self._lifecycle.check_takes_requests()


def _check_repository(repository_name: str) -> None:
    if repository_name:
        raise Unsupported("'repository_name' specification is not supported: leave it empty")
