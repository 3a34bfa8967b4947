"""gRPC server reflection, so that grpcurl and its like need no .proto files."""

from collections.abc import AsyncIterator, Iterable

from grpc_reflection.v1alpha import reflection, reflection_pb2

from convscope_server import codec
from convscope_server.call import Call, Methods, Stream

SERVICE = reflection.SERVICE_NAME
# v1 has the same messages under another service name; new tools ask for it first.
_SERVICES = (SERVICE, "grpc.reflection.v1.ServerReflection")


class ReflectionServicer:
    """grpcio-reflection's servicer behind our Call."""

    def __init__(self, services: Iterable[str]) -> None:
        """Tell of these services, by full name."""
        self._servicer = reflection.aio.ReflectionServicer(services)

    def methods(self) -> Methods:
        """The methods of both versions by their full names."""
        return {f"/{service}/ServerReflectionInfo": Stream(self.info) for service in _SERVICES}

    async def info(self, messages: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
        """Answer each question."""
        questions = (
            codec.parse(reflection_pb2.ServerReflectionRequest, message)
            async for message in messages
        )
        async for answer in self._servicer.ServerReflectionInfo(questions, None):
            yield answer.SerializeToString()
