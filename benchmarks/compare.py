"""Two or more servers under the same load, in turn: settings, event loops, numbers of workers.

    python benchmarks/compare.py "convscope serve" "convscope serve --workers 2"
    python benchmarks/compare.py COMMAND COMMAND --model vgg.onnx --rows 64 --in-flight 1 4

Every command must start `convscope serve` and take its arguments at the end; all of
them run throughout, and each round loads one after the other, so that a machine that
drifts or is shared drifts for all. Printed are medians over the rounds: images/s, p50
and p99, the processor time of the server's processes an image, which others that load
the machine disturb least, and for all but the first the ratios to the first round by
round, median and range. The load generator is one process on the same machine.
"""

import argparse
import asyncio
import contextlib
import itertools
import statistics
import time
from pathlib import Path

import grpc
import numpy as np
from measurements import spread
from processes import processor_seconds
from servers import Running, convscope, machine_text

from convscope_proto.tensors import to_tensor
from convscope_proto.v1 import classifier_pb2 as pb
from convscope_proto.v1 import classifier_pb2_grpc as pb_grpc
from convscope_server.config import shipped_models

METHOD = "/convscope.v1.Classifier/Classify"


async def load(
    address: str, message: bytes, in_flight: int, connections: int, seconds: float
) -> tuple[list[float], int]:
    """Closed loop: the seconds that each call took, calls of the first tenth left out.

    And how many calls there were with those.
    """
    durations: list[float] = []
    count = 0
    started_s = time.perf_counter()
    measured_s, ends_s = started_s + seconds * 0.1, started_s + seconds * 1.1

    async with contextlib.AsyncExitStack() as stack:
        calls: list[grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]] = []
        for _ in range(connections):
            options = [("grpc.use_local_subchannel_pool", 1)]  # else they share a connection
            channel = await stack.enter_async_context(
                grpc.aio.insecure_channel(address, options=options)
            )
            calls.append(channel.unary_unary(METHOD))

        async def caller(number: int) -> None:
            nonlocal count
            call = calls[number % connections]
            while (began_s := time.perf_counter()) < ends_s:
                await call(message)
                count += 1
                if began_s >= measured_s:
                    durations.append(time.perf_counter() - began_s)

        await asyncio.gather(*(caller(number) for number in range(in_flight)))
    return durations, count


def request(address: str, rows: int) -> bytes:
    """A call with this many random images of the size that the server's model takes."""
    with grpc.insecure_channel(address) as channel:
        model = pb_grpc.ClassifierStub(channel).GetModel(pb.GetModelRequest(), timeout=10).model
    shape = (rows, model.input.height, model.input.width, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return pb.ClassifyRequest(pixels=to_tensor(images), top_k=1).SerializeToString()


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("commands", nargs="+", metavar="COMMAND")
    simple = shipped_models() / "simple" / "1" / "model.onnx"
    parser.add_argument("--model", type=Path, default=simple, help="model file (default: simple)")
    parser.add_argument("--rows", type=int, default=1, help="images a call (default: 1)")
    parser.add_argument("--in-flight", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--connections", type=int, nargs="+", default=[1])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2, help="of each server in each round")
    options = parser.parse_args()
    print(
        f"{machine_text()}, {options.rounds} rounds of {options.seconds:g} s, "
        f"{options.rows} images a call\n"
    )
    for number, command in enumerate(options.commands):
        print(f"{chr(ord('A') + number)}: `{command}`")
    print("\n| in flight | connections | server | images/s | p50 ms | p99 ms | ratio to A ", end="")
    print("| processor µs an image | ratio to A |\n|---:|---:|---|---:|---:|---:|---:|---:|---:|")
    with contextlib.ExitStack() as stack:
        model = str(options.model)
        servers = [stack.enter_context(convscope(c, model)) for c in options.commands]
        message = request(servers[0].address, options.rows)
        for in_flight, connections in itertools.product(options.in_flight, options.connections):
            rounds = [
                [
                    measure(server, message, in_flight, connections, options.seconds)
                    for server in servers
                ]
                for _ in range(options.rounds)
            ]
            for number in range(len(servers)):
                print(
                    f"| {in_flight} | {connections} | {chr(ord('A') + number)} "
                    f"| {row(rounds, number, options.rows, options.seconds)} |",
                    flush=True,
                )


def measure(
    server: Running, message: bytes, in_flight: int, connections: int, seconds: float
) -> tuple[list[float], float]:
    """The seconds of each call, and the processor seconds of the server for each."""
    before_s = processor_seconds(server.process_id)
    durations, count = asyncio.run(load(server.address, message, in_flight, connections, seconds))
    return durations, (processor_seconds(server.process_id) - before_s) / count


def row(
    rounds: list[list[tuple[list[float], float]]], number: int, rows: int, seconds: float
) -> str:
    """One server's cells of the table."""
    durations = [parts[number][0] for parts in rounds]
    rate = statistics.median(map(len, durations)) * rows / seconds
    p50_ms, p99_ms = (
        statistics.median(float(np.percentile(part, p)) * 1000 for part in durations)
        for p in (50, 99)
    )
    rates = [len(parts[number][0]) / len(parts[0][0]) for parts in rounds]
    used_us = statistics.median(parts[number][1] for parts in rounds) / rows * 1e6
    uses = [parts[number][1] / parts[0][1] for parts in rounds]
    return (
        f"{rate:,.0f} | {p50_ms:.2f} | {p99_ms:.2f} | {spread(rates) if number else '1'} "
        f"| {used_us:,.0f} | {spread(uses) if number else '1'}"
    )


if __name__ == "__main__":
    main()
