"""Threads and processors: a model that takes milliseconds, ONNX Runtime's spinning, raw speed.

    python benchmarks/threads.py model vgg.onnx [--width 2]
    python benchmarks/threads.py serve session.intra_op.allow_spinning=1 vgg.onnx
    python benchmarks/threads.py raw vgg.onnx [--rounds 7] [--seconds 3]

`model` writes a VGG-like model of 153 M multiply-adds for 32x32 images, weights random;
twice as wide it has four times as many.
`serve` is `convscope serve` with other configuration entries of ONNX Runtime's sessions,
for compare.py; `,` between several. `raw` compares, in turn, one connection with 32
single-image calls in flight (grpcio) to ONNX Runtime itself in a loop on the same processors.
"""

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort
from compare import measure, request
from measurements import spread
from onnx import TensorProto, helper, numpy_helper, save
from servers import convscope, machine_text

# Convolutions 3x3 of a VGG for 32x32 images; 0 is a pool.
LAYERS = (64, 64, 0, 128, 128, 0, 256, 256, 0)
RAW_BATCH_SIZE = 32


def write_model(path: Path, width_factor: int) -> None:
    """Write the model: uint8 images (N, 32, 32, 3) to scores and probabilities (N, 10)."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Transpose", ["images"], ["nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["nchw"], ["pixels"], to=TensorProto.FLOAT),
    ]
    weights = []

    def weight(name: str, *shape: int) -> str:
        values = rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape).astype(np.float32)
        weights.append(numpy_helper.from_array(values, name))
        return name

    tensor, depth = "pixels", 3
    for number, layer_width in enumerate(LAYERS):
        name, width = f"layer{number}", layer_width * width_factor
        if width:
            kernel = weight(f"{name}.w", width, depth, 3, 3)
            nodes.append(helper.make_node("Conv", [tensor, kernel], [f"{name}.c"], pads=[1] * 4))
            nodes.append(helper.make_node("Relu", [f"{name}.c"], [name]))
            depth = width
        else:
            size = [2, 2]
            nodes.append(
                helper.make_node("MaxPool", [tensor], [name], kernel_shape=size, strides=size)
            )
        tensor = name
    nodes += [
        helper.make_node("Flatten", [tensor], ["flat"]),
        helper.make_node("Gemm", ["flat", weight("fc.w", depth * 16, 10)], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
    ]
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 10])
        for name in ("scores", "probabilities")
    ]
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", 32, 32, 3])
    graph = helper.make_graph(nodes, "vgg", [images], outputs, weights)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)


def serve(entries: str, arguments: list[str]) -> None:
    """Run `convscope serve` with these configuration entries instead of its own."""
    from convscope_server.cli import serve as command

    wanted = dict(entry.split("=") for entry in entries.split(",") if entry)
    original = ort.SessionOptions.add_session_config_entry

    def add(options: ort.SessionOptions, key: str, value: str) -> None:
        original(options, key, wanted.get(key, value))
        for other in wanted.items():
            original(options, *other)

    ort.SessionOptions.add_session_config_entry = add
    command(arguments)


def compare_with_raw(model: Path, rounds: int, seconds: float) -> None:
    """Print images/s and processor time of both, and how busy the machine was meanwhile."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    images = np.zeros((RAW_BATCH_SIZE, 32, 32, 3), np.uint8)

    def raw() -> tuple[float, float]:
        count, used_s, ends_s = 0, time.process_time(), time.perf_counter() + seconds
        while time.perf_counter() < ends_s:
            session.run(None, {"images": images})
            count += RAW_BATCH_SIZE
        return count / seconds, (time.process_time() - used_s) / count

    def machine_busy() -> tuple[float, float]:
        fields = [float(field) for field in Path("/proc/stat").read_text().split()[1:9]]
        return sum(fields) - fields[3] - fields[4], sum(fields)

    rows = []
    with convscope("convscope serve --transport grpcio", str(model)) as server:
        message = request(server.address, 1)
        for _ in range(rounds):
            before = machine_busy()
            durations, used_s = measure(server, message, 32, 1, seconds)
            after = machine_busy()
            busy = (after[0] - before[0]) / (after[1] - before[1])
            rate = len(durations) / seconds
            raw_rate, raw_used_s = raw()
            ratio, use_ratio = rate / raw_rate, raw_used_s / used_s
            rows.append((rate, raw_rate, ratio, used_s, raw_used_s, use_ratio, busy))
    rates, raw_rates, ratios, uses, raw_uses, use_ratios, busies = zip(*rows, strict=True)
    print(
        f"{machine_text()}, {rounds} rounds of {seconds:g} s\n\n"
        "| | images/s | processor µs an image | machine busy |\n|---|---:|---:|---:|\n"
        f"| convscope | {statistics.median(rates):,.0f} | {statistics.median(uses) * 1e6:,.0f} "
        f"| {statistics.median(busies):.0%} |\n"
        f"| ONNX Runtime | {statistics.median(raw_rates):,.0f} "
        f"| {statistics.median(raw_uses) * 1e6:,.0f} | |\n"
        f"| ratio | {spread(ratios)} | {spread(use_ratios)} | |"
    )


def main() -> None:
    """Do what the first argument says."""
    if sys.argv[1:2] == ["serve"] and len(sys.argv) > 2:
        serve(sys.argv[2], sys.argv[3:])
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["model", "serve", "raw"])
    parser.add_argument("model", type=Path)
    parser.add_argument("--width", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3)
    options = parser.parse_args()
    if options.what == "model":
        write_model(options.model, options.width)
    else:
        compare_with_raw(options.model, options.rounds, options.seconds)


if __name__ == "__main__":
    main()
