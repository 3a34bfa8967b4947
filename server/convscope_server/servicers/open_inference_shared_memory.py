"""inference.GRPCInferenceService: registering shared memory."""

from convscope_proto.inference import grpc_service_pb2 as pb
from convscope_server import codec
from convscope_server.call import Call, Methods, Unary
from convscope_server.errors import UnknownRegion, Unsupported
from convscope_server.servicers.open_inference import SERVICE
from convscope_server.shared_memory import SharedMemory


class OpenInferenceSharedMemoryServicer:
    """System shared memory; of CUDA's, that there is none."""

    def __init__(self, memory: SharedMemory) -> None:
        """Take what holds the regions."""
        self._memory = memory

    def methods(self) -> Methods:
        """The service's methods by their full names."""
        return {
            f"/{SERVICE}/SystemSharedMemoryStatus": Unary(self.system_status),
            f"/{SERVICE}/SystemSharedMemoryRegister": Unary(self.system_register),
            f"/{SERVICE}/SystemSharedMemoryUnregister": Unary(self.system_unregister),
            f"/{SERVICE}/CudaSharedMemoryStatus": Unary(self.cuda_status),
            f"/{SERVICE}/CudaSharedMemoryRegister": Unary(self.cuda_register),
            f"/{SERVICE}/CudaSharedMemoryUnregister": Unary(self.cuda_unregister),
        }

    async def system_status(self, message: bytes, call: Call) -> bytes:
        """One region, or all."""
        request = codec.parse(pb.SystemSharedMemoryStatusRequest, message)
        self._memory.check_allowed(call.peer)
        regions = self._memory.regions
        if request.name:
            regions = {request.name: self._memory.region(request.name)}
        response = pb.SystemSharedMemoryStatusResponse()
        for name, region in regions.items():
            told = response.regions[name]
            told.name, told.key = name, region.key
            told.offset, told.byte_size = region.offset, region.size_bytes
        return response.SerializeToString()

    async def system_register(self, message: bytes, call: Call) -> bytes:
        """Give a name to a stretch of a shared memory object."""
        request = codec.parse(pb.SystemSharedMemoryRegisterRequest, message)
        self._memory.check_allowed(call.peer)
        self._memory.register(request.name, request.key, request.offset, request.byte_size)
        return pb.SystemSharedMemoryRegisterResponse().SerializeToString()

    async def system_unregister(self, message: bytes, call: Call) -> bytes:
        """Take the name away, or all names."""
        request = codec.parse(pb.SystemSharedMemoryUnregisterRequest, message)
        # Where there are none, it is done already: many clients begin with it.
        if self._memory.regions:
            self._memory.check_allowed(call.peer)
        self._memory.unregister(request.name)
        return pb.SystemSharedMemoryUnregisterResponse().SerializeToString()

    async def cuda_status(self, message: bytes, call: Call) -> bytes:
        """No region."""
        request = codec.parse(pb.CudaSharedMemoryStatusRequest, message)
        if request.name:
            raise UnknownRegion(
                f"unable to find cuda shared memory region {request.name[:100]!r}: "
                "this server registers none"
            )
        return pb.CudaSharedMemoryStatusResponse().SerializeToString()

    async def cuda_register(self, message: bytes, call: Call) -> bytes:
        """Refused."""
        codec.parse(pb.CudaSharedMemoryRegisterRequest, message)
        raise Unsupported("cuda shared memory is not supported: use system shared memory")

    async def cuda_unregister(self, message: bytes, call: Call) -> bytes:
        """Nothing to do; clients such as perf_analyzer begin with it."""
        codec.parse(pb.CudaSharedMemoryUnregisterRequest, message)
        return pb.CudaSharedMemoryUnregisterResponse().SerializeToString()
