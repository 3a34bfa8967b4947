"""Resident memory of a real server stays where it is, whatever it is asked."""

import asyncio
import itertools
import os
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from support.servers import TRANSPORTS, server_process

from convscope_proto.tensors import to_tensor
from convscope_proto.v1 import classifier_pb2 as pb

ROOT = Path(__file__).parents[2]
METHOD = "/convscope.v1.Classifier/Classify"
LAYERS = ("conv1", "relu1", "pool1", "fc1")
# What the server may still be fetching for the first time after its first thousands
# of requests: pages of the allocator's arenas. A leak of one image a request, 3 KB,
# would be 30 MB; one of its feature maps far more.
ALLOWED_GROWTH_BYTES = 16 << 20


def resident_bytes(process_id: int) -> int:
    pages = int(Path(f"/proc/{process_id}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def mixed_requests() -> list[bytes]:
    """Plain, tapped with every set of layers, large, encoded, and wrong ones."""
    generator = np.random.default_rng(0)

    def pixels(count: int) -> pb.Tensor:
        return to_tensor(generator.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8))

    requests = [pb.ClassifyRequest(pixels=pixels(count)) for count in (1, 1, 1, 2, 7, 64, 200)]
    for size in range(1, len(LAYERS) + 1):  # 15 sets: more than there are sessions kept
        for layers in itertools.combinations(LAYERS, size):
            wish = pb.FeatureMapRequest(layers=layers)
            requests.append(pb.ClassifyRequest(pixels=pixels(1), feature_maps=[wish]))
    picture = (ROOT / "samples" / "horse.jpg").read_bytes()
    requests += [
        pb.ClassifyRequest(encoded=pb.EncodedImages(images=[picture])),
        pb.ClassifyRequest(encoded=pb.EncodedImages(images=[picture[:1000]])),
        pb.ClassifyRequest(pixels=to_tensor(np.zeros((1, 8, 8, 3), np.uint8))),
        pb.ClassifyRequest(pixels=pixels(1), model_name="nobody"),
        pb.ClassifyRequest(),
    ]
    return [request.SerializeToString() for request in requests]


async def send(address: str, count: int, in_flight: int = 8) -> int:
    """Send that many requests, in turn; returns how many were answered with OK."""
    messages = itertools.cycle(mixed_requests())
    answered = 0
    async with grpc.aio.insecure_channel(address) as channel:
        call: Any = channel.unary_unary(METHOD)

        async def caller() -> None:
            nonlocal answered
            for _ in range(count // in_flight):
                try:
                    await call(next(messages), timeout=30)
                    answered += 1
                except grpc.aio.AioRpcError as error:
                    assert error.code() in (  # noqa: PT017 - all that may be
                        grpc.StatusCode.INVALID_ARGUMENT,
                        grpc.StatusCode.NOT_FOUND,
                    ), error

        await asyncio.gather(*(caller() for _ in range(in_flight)))
    return answered


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_memory_is_flat_over_ten_thousand_mixed_requests(transport: str) -> None:
    models = str(ROOT / "models" / "simple" / "1" / "model.onnx")
    with server_process(models, "--transport", transport) as server:
        pid = server.process.pid if transport == "grpcio" else server.envoy_pid
        asyncio.run(send(server.address, 3_000))
        before = resident_bytes(pid)
        answered = asyncio.run(send(server.address, 10_000))
        after = resident_bytes(pid)
    assert answered > 7_000
    assert after - before < ALLOWED_GROWTH_BYTES, f"{before >> 20} MiB became {after >> 20} MiB"
    print(f"{before >> 20} MiB, {after >> 20} MiB after 10,000 mixed requests")
