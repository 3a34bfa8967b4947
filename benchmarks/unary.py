"""Unary calls: convscope serve beside a bare grpc.aio echo, the two in turn.

    python benchmarks/unary.py [--rounds 5] [--seconds 3]

Each round loads the echo and then the server with the same request, one image
of the shipped model (3 KB), from one process on one connection, at several
numbers of calls in flight. Printed are medians over the rounds of calls/s and
p50/p99, and the median of the ratio round by round: machines drift, pairs do
not. The load generator shares the machine with what it measures.
"""

import argparse
import asyncio
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import grpc
import numpy as np

from convscope_proto.tensors import to_tensor
from convscope_proto.v1 import classifier_pb2 as pb

METHOD = "/convscope.v1.Classifier/Classify"
IN_FLIGHT = (1, 8, 32)


def serve_echo(pipe: "multiprocessing.connection.Connection") -> None:
    """A grpc.aio server that answers every call with the request's bytes."""

    async def echo(message: bytes, _: object) -> bytes:
        return message

    class Handler(grpc.GenericRpcHandler):
        def service(self, _: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes]":
            return grpc.unary_unary_rpc_method_handler(echo)  # type: ignore[arg-type]

    async def run() -> None:
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((Handler(),))
        pipe.send(server.add_insecure_port("127.0.0.1:0"))
        await server.start()
        await server.wait_for_termination()

    asyncio.run(run())


async def load(address: str, message: bytes, in_flight: int, seconds: float) -> list[float]:
    """Closed loop: the seconds that each call took, calls of the first tenth left out."""
    durations: list[float] = []
    started_s = time.perf_counter()
    measured_s, ends_s = started_s + seconds * 0.1, started_s + seconds * 1.1

    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.unary_unary(METHOD)

        async def caller() -> None:
            while (began_s := time.perf_counter()) < ends_s:
                await call(message)
                if began_s >= measured_s:
                    durations.append(time.perf_counter() - began_s)

        await asyncio.gather(*(caller() for _ in range(in_flight)))
    return durations


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3)
    options = parser.parse_args()
    image = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    message = pb.ClassifyRequest(pixels=to_tensor(image), top_k=1).SerializeToString()

    parent, child = multiprocessing.Pipe()
    echo = multiprocessing.Process(target=serve_echo, args=(child,), daemon=True)
    echo.start()
    echo_address = f"127.0.0.1:{parent.recv()}"
    command = [str(Path(sys.executable).parent / "convscope"), "serve"]
    command += ["--port", "0", "--metrics-port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:  # noqa: S603
        assert server.stderr is not None  # noqa: S101
        line = next(line for line in server.stderr if "ready" in line)
        address = line.partition("gRPC on ")[2].partition(",")[0]
        print(
            f"{platform.machine()}, {len(os.sched_getaffinity(0))} processors, Python "
            f"{platform.python_version()}, grpcio {version('grpcio')}, onnxruntime "
            f"{version('onnxruntime')}, {options.rounds} rounds of {options.seconds:g} s\n"
        )
        print("| in flight | echo calls/s | convscope calls/s | ratio | p50 ms | p99 ms |")
        print("|---:|---:|---:|---:|---:|---:|")
        for in_flight in IN_FLIGHT:
            rounds = []
            for _ in range(options.rounds):
                pair = [
                    asyncio.run(load(target, message, in_flight, options.seconds))
                    for target in (echo_address, address)
                ]
                rounds.append(pair)
            rates = [[len(part) / options.seconds for part in pair] for pair in rounds]
            ours_ms = [np.percentile(pair[1], (50, 99)) * 1000 for pair in rounds]
            print(
                f"| {in_flight} | {statistics.median(r[0] for r in rates):,.0f} "
                f"| {statistics.median(r[1] for r in rates):,.0f} "
                f"| {statistics.median(r[1] / r[0] for r in rates):.2f} "
                f"| {statistics.median(float(p[0]) for p in ours_ms):.2f} "
                f"| {statistics.median(float(p[1]) for p in ours_ms):.2f} |",
                flush=True,
            )
        server.terminate()
    echo.terminate()


if __name__ == "__main__":
    main()
