"""Unary calls: convscope serve over both transports, beside a bare echo over each, in turn.

    python benchmarks/unary.py [--rounds 5] [--seconds 3] [--in-flight 1 8 32 128]

Each round loads every server with the same request, one image of the shipped
model (3 KB), on one connection, at several numbers of calls in flight. Printed
are medians over the rounds of calls/s and p50/p99, and the median of the ratio to
the echo over the same transport, round by round: machines drift, pairs do not.
The generator is nghttp2's h2load, which takes far less of the machine than a
client in Python, and shares it with what it measures.
"""

import argparse
import asyncio
import multiprocessing
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path

import grpc
import numpy as np

from convscope_proto.tensors import to_tensor
from convscope_proto.v1 import classifier_pb2 as pb
from convscope_server import envoy_launcher
from convscope_server.config import ServerConfig
from convscope_server.transports.envoy_admin import AdminError, EnvoyAdmin

METHOD = "/convscope.v1.Classifier/Classify"
# What is measured, and the echo that it is compared with.
ECHO_OF = {"convscope grpcio": "echo grpcio", "convscope envoy": "echo envoy"}


def _serve_echo(pipe: "Connection[int, int]") -> None:
    async def echo(message: bytes, _: object) -> bytes:
        return message

    class Handler(grpc.GenericRpcHandler):
        def service(self, _: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes]":
            return grpc.unary_unary_rpc_method_handler(echo)

    async def run() -> None:
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((Handler(),))
        pipe.send(server.add_insecure_port("127.0.0.1:0"))
        await server.start()
        await server.wait_for_termination()

    asyncio.run(run())


@contextmanager
def grpcio_echo() -> Iterator[str]:
    """A grpc.aio server that answers every call with the request's bytes."""
    parent, child = multiprocessing.Pipe()
    process = multiprocessing.Process(target=_serve_echo, args=(child,), daemon=True)
    process.start()
    yield f"127.0.0.1:{parent.recv()}"
    process.terminate()


@contextmanager
def envoy_echo() -> Iterator[str]:
    """The same as an ASGI application in Envoy, configured as convscope's is."""

    async def port() -> int:
        while True:
            try:
                return await EnvoyAdmin(admin_socket).port()
            except AdminError:
                await asyncio.sleep(0.05)

    with tempfile.TemporaryDirectory(prefix="convscope-") as folder:
        admin_socket = Path(folder) / "admin.sock"
        config = ServerConfig(models=Path(), port=0)
        command, environment = envoy_launcher.command(
            config, Path(folder), admin_socket, application="envoy_echo:app"
        )
        environment["PYTHONPATH"] += os.pathsep + str(Path(__file__).parent)
        with subprocess.Popen(command, env=environment) as process:  # noqa: S603
            yield f"127.0.0.1:{asyncio.run(port())}"
            process.terminate()


@contextmanager
def convscope(transport: str) -> Iterator[str]:
    """`convscope serve` with the shipped models; `simple` answers."""
    command = [str(Path(sys.executable).parent / "convscope"), "serve", "--transport", transport]
    command += ["--default-model", "simple"]
    command += ["--port", "0", "--metrics-port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:  # noqa: S603
        assert server.stderr is not None  # noqa: S101
        line = next(line for line in server.stderr if "ready" in line)
        yield line.partition("gRPC on ")[2].partition(",")[0]
        server.terminate()


def load(address: str, body: Path, in_flight: int, seconds: int) -> list[float]:
    """The milliseconds that each call took, after a second to warm up."""
    with tempfile.NamedTemporaryFile("r") as log:
        command = ["h2load", "-c1", f"-m{in_flight}", f"-D{seconds}", "--warm-up-time=1"]
        command += [f"--data={body}", f"--log-file={log.name}"]
        command += ["-Hcontent-type: application/grpc", "-Hte: trailers"]
        subprocess.run(  # noqa: S603
            [*command, f"http://{address}{METHOD}"],
            check=True,
            capture_output=True,
            timeout=seconds + 30,
        )
        calls = [line.split() for line in log]
    if any(status != "200" for _, status, _ in calls):
        raise SystemExit(f"{address} answered with a status other than 200")
    return [int(microseconds) / 1000 for _, _, microseconds in calls]


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--in-flight", type=int, nargs="+", default=[1, 8, 32, 128])
    options = parser.parse_args()
    if shutil.which("h2load") is None:
        parser.error("expected h2load, found none: apt-get install nghttp2-client")
    image = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    message = pb.ClassifyRequest(pixels=to_tensor(image), top_k=1).SerializeToString()
    with ExitStack() as stack:
        body = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "request"
        body.write_bytes(b"\0" + len(message).to_bytes(4, "big") + message)
        servers = {
            "echo grpcio": stack.enter_context(grpcio_echo()),
            "convscope grpcio": stack.enter_context(convscope("grpcio")),
            "echo envoy": stack.enter_context(envoy_echo()),
            "convscope envoy": stack.enter_context(convscope("envoy")),
        }
        for address in servers.values():  # h2load takes a gRPC error for a success
            with grpc.insecure_channel(address) as channel:
                channel.unary_unary(METHOD)(message, timeout=10)  # type: ignore[arg-type]
        print(
            f"{platform.machine()}, {len(os.sched_getaffinity(0))} processors, load average "
            f"{os.getloadavg()[0]:.1f} before, Python {platform.python_version()}, "
            f"grpcio {version('grpcio')}, pyvoy {version('pyvoy')}, onnxruntime "
            f"{version('onnxruntime')}, {options.rounds} rounds of {options.seconds} s\n"
        )
        print("| in flight | server | calls/s | of its echo | p50 ms | p99 ms |")
        print("|---:|---|---:|---:|---:|---:|")
        for in_flight in options.in_flight:
            rounds = [
                {
                    name: load(address, body, in_flight, options.seconds)
                    for name, address in servers.items()
                }
                for _ in range(options.rounds)
            ]
            for name in servers:
                rate = statistics.median(len(one[name]) / options.seconds for one in rounds)
                ratio = ""
                if echo := ECHO_OF.get(name):
                    ratios = [len(one[name]) / len(one[echo]) for one in rounds]
                    ratio = f"{statistics.median(ratios):.2f}"
                p50, p99 = (
                    statistics.median(float(np.percentile(one[name], q)) for one in rounds)
                    for q in (50, 99)
                )
                print(
                    f"| {in_flight} | {name} | {rate:,.0f} | {ratio} | {p50:.2f} | {p99:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
