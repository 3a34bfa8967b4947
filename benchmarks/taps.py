"""What a feature map costs: whoever asks for it, and those who do not.

    python benchmarks/taps.py [MODELS] [--rounds 5] [--seconds 2]

MODELS is a folder as for `convscope serve`; the models that ship by default. For
each model, and in turn within each round: no feature map, the smallest layer that
has height and width, the largest, and all layers; with one image a request, one at
a time, and with 64 images a request. Then 16 plain callers beside one more, which
asks for nothing either, or for the largest layer: what the sixteen lose is the
price that plain traffic pays. Printed are medians over the rounds; ratios are
taken round by round. The load generator shares the machine with the server.
"""

import argparse
import asyncio
import statistics
import time

import grpc
import numpy as np
from servers import convscope, machine_text

from convscope_client import Client, Layer, Model
from convscope_proto.tensors import to_tensor
from convscope_proto.v1 import classifier_pb2 as pb

METHOD = "/convscope.v1.Classifier/Classify"
LARGEST_MESSAGE = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
PLAIN_CALLERS = 16


def size(layer: Layer) -> int:
    """Activations of a layer for one image."""
    return layer.volume.depth * layer.volume.height * layer.volume.width


def request(model: Model, images: int, layers: list[str]) -> bytes:
    """A Classify message of random pixels that asks for these layers."""
    shape = (images, model.input.height, model.input.width, model.input.channels)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    wishes = [pb.FeatureMapRequest(layers=layers)] if layers else []
    return pb.ClassifyRequest(
        model_name=model.name, pixels=to_tensor(pixels), top_k=1, feature_maps=wishes
    ).SerializeToString()


async def load(
    address: str, message: bytes, callers: int, seconds: float
) -> tuple[list[bytes], float]:
    """Closed loop: the answers, and how long they took together."""
    answers: list[bytes] = []
    async with grpc.aio.insecure_channel(address, LARGEST_MESSAGE) as channel:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)
        await call(message)  # the session for these layers is built by its first request
        started_s = time.perf_counter()

        async def caller() -> None:
            while time.perf_counter() < started_s + seconds:
                answers.append(await call(message))

        await asyncio.gather(*(caller() for _ in range(callers)))
        return answers, time.perf_counter() - started_s


def measure(address: str, message: bytes, seconds: float) -> tuple[float, float, int]:
    """Milliseconds a call; milliseconds of it computing; bytes of an answer."""
    answers, took_s = asyncio.run(load(address, message, 1, seconds))
    timings = [pb.ClassifyResponse.FromString(answer).timings for answer in answers[::10]]
    return (
        1000 * took_s / len(answers),
        statistics.median(timing.compute_ns for timing in timings) / 1e6,
        len(answers[0]),
    )


def print_costs(address: str, model: Model, options: argparse.Namespace) -> None:
    """One table row for each wish and request size."""
    maps = [layer for layer in model.layers if layer.volume.height > 1]
    smallest = min(maps, key=size)
    largest = max(maps, key=size)
    wishes = {
        "none": [],
        f"smallest: {smallest.name}": [smallest.name],
        f"largest: {largest.name}": [largest.name],
        f"all {len(model.layers)}": ["all"],
    }
    for images in (1, 64):
        messages = {name: request(model, images, layers) for name, layers in wishes.items()}
        rounds: list[dict[str, tuple[float, float, int]]] = [
            {name: measure(address, message, options.seconds) for name, message in messages.items()}
            for _ in range(options.rounds)
        ]
        for name in wishes:
            call_ms = statistics.median(r[name][0] for r in rounds)
            compute_ms = statistics.median(r[name][1] for r in rounds)
            call_ratio = statistics.median(r[name][0] / r["none"][0] for r in rounds)
            compute_ratio = statistics.median(r[name][1] / r["none"][1] for r in rounds)
            print(
                f"| {model.name} | {images} | {name} | {rounds[0][name][2] / 1024:,.1f} "
                f"| {compute_ms:.2f} | {compute_ratio:.2f} | {call_ms:.2f} | {call_ratio:.2f} |",
                flush=True,
            )


def print_mixed(address: str, model: Model, options: argparse.Namespace) -> None:
    """What sixteen plain callers lose when a seventeenth asks for feature maps."""
    plain = request(model, 1, [])
    largest = max(model.layers, key=size).name
    others = {"nothing": plain, largest: request(model, 1, [largest])}
    ratios, rates = [], []
    for _ in range(options.rounds):
        rate = {}
        for name, other in others.items():

            async def both(other: bytes = other) -> tuple[tuple[list[bytes], float], ...]:
                return await asyncio.gather(
                    load(address, plain, PLAIN_CALLERS, options.seconds),
                    load(address, other, 1, options.seconds),
                )

            rate[name] = [len(answers) / took_s for answers, took_s in asyncio.run(both())]
        rates.append((*rate["nothing"], *rate[largest]))
        ratios.append(rate[largest][0] / rate["nothing"][0])
    before, beside_before, after, beside_after = (
        statistics.median(values) for values in zip(*rates, strict=True)
    )
    print(
        f"| {model.name} | {largest} | {before:,.0f} + {beside_before:,.0f} "
        f"| {after:,.0f} + {beside_after:,.0f} | {statistics.median(ratios):.3f} |",
        flush=True,
    )


def main() -> None:
    """Measure and print two Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="?")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2)
    options = parser.parse_args()
    print(f"{machine_text()}, {options.rounds} rounds of {options.seconds:g} s\n")
    arguments = ["--max-message-bytes", str(1 << 30), *([options.models] if options.models else [])]
    with (
        convscope("convscope serve", *arguments) as server,
        Client(address := server.address) as client,
    ):
        models = [client.describe(model.name) for model in client.models().models]
        print(
            "| model | images | feature maps | answer KiB | compute ms | ratio | call ms | ratio |"
        )
        print("|---|---:|---|---:|---:|---:|---:|---:|")
        for model in models:
            print_costs(address, model, options)
        print("\n| model | feature maps | plain + plain calls/s | plain + tapped calls/s | ratio |")
        print("|---|---|---:|---:|---:|")
        for model in models:
            print_mixed(address, model, options)


if __name__ == "__main__":
    main()
