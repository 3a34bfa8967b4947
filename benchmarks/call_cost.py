"""Where the processor time of one call goes, over each transport and without any.

    python benchmarks/call_cost.py [--rounds 5] [--seconds 2] [--in-flight 32] [--rows 1]

In µs of processor time a call, with so many calls in flight:

- over the wire: an echo, the transport and the dispatcher with nothing behind them, and
  convscope, with requests and answers of the same sizes; medians over rounds in which
  each is loaded in turn. By thread, since what one event loop takes a call bounds its
  calls a second; `python` and `convscope` over grpcio, and the first `envoy`, are the event
  loop's. And the images of a batch, of which there are the more the more come at once.
- without a transport: the server's dispatcher, called in this process, in turn whole and
  with a part taken away; the difference is what the part costs. Here a caller is one task
  for all its calls, where a transport makes one for each.
- sampled, 250 times a second of the event loop's processor time: calls without a transport
  and calls over grpcio, whose server then runs in this process. Envoy's cannot.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import dispatched
import h2load
import numpy as np
import services
import uvloop
from networks import SIDE
from processes import thread_ns
from sampler import Sampler
from servers import TRANSPORTS, Running, convscope, echo, in_envoy, machine_text, on_grpcio
from services import SERVICES
from taken_away import NoTransport, Replay, no_counting

from convscope_server.app import Server
from convscope_server.call import Call
from convscope_server.config import ServerConfig, shipped_models
from convscope_server.ort_backend import OrtSession
from convscope_server.transports.grpcio import GrpcioTransport

Handle = Callable[[bytes, Call], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class Contender:
    """What is loaded over the wire."""

    running: Running
    method: str


def print_over_the_wire(options: argparse.Namespace, message: bytes) -> int:
    """Echo, transport and dispatcher, server: µs a call. Returns the bytes of an answer."""
    with ExitStack() as stack:
        body = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "request"
        body.write_bytes(h2load.framed(message))
        contenders: dict[tuple[str, str], Contender] = {}
        for transport in options.transports:
            command = f"{options.server_command} --transport {transport}"
            server = stack.enter_context(convscope(command, str(options.model)))
            found = services.answer_bytes(server.address, SERVICES[options.service], message)
            if found is None:
                raise SystemExit(f"{options.server_command} has no {options.method}")
            size = found
            bare = stack.enter_context(echo(transport))
            stub = stack.enter_context(
                on_grpcio("dispatched.py", str(size))
                if transport == "grpcio"
                else in_envoy("dispatched:app", {dispatched.BYTES_VARIABLE: str(size)})
            )
            contenders[transport, "echo"] = Contender(bare, f"/echo/unary/{size}")
            contenders[transport, "transport + dispatcher"] = Contender(stub, dispatched.METHOD)
            contenders[transport, "convscope"] = Contender(server, options.method)
        rounds = [
            {key: _load(each, body, size, options) for key, each in contenders.items()}
            for _ in range(options.rounds)
        ]
    for (transport, _), each in contenders.items():
        for how in each.running.models.values():
            print(f"Over {transport} convscope's batches: {how}.\n")
    print("| transport | server | calls/s | images a batch | µs a call | of that, by thread |")
    print("|---|---|---:|---:|---:|---|")
    for transport, name in contenders:
        measured = [one[transport, name] for one in rounds]
        rate = statistics.median(rate for rate, _, _ in measured)
        batch = statistics.median(batch for _, batch, _ in measured)
        total_us = statistics.median(threads.total() / 1000 for _, _, threads in measured)
        whole = sum((threads for _, _, threads in measured), Counter[str]())
        split = ", ".join(
            f"{used_ns / len(rounds) / 1000:.0f} {thread.rpartition(' ')[0]}"
            for thread, used_ns in whole.most_common(3)
        )
        print(
            f"| {transport} | {name} | {rate:,.0f} | {f'{batch:.1f}' if batch else ''} "
            f"| {total_us:.0f} | {split} |",
            flush=True,
        )
    print()
    return size


def _load(
    contender: Contender, body: Path, answer_bytes: int, options: argparse.Namespace
) -> tuple[float, float, Counter[str]]:
    """Calls/s, images a batch, and ns a call by thread."""
    process_id = contender.running.process_id
    before_ns, batches_before = thread_ns(process_id), _batches(contender.running)
    # No warm-up: its processor time would be counted, and its calls would not.
    load = h2load.load(
        contender.running.address,
        contender.method,
        body,
        answer_bytes=answer_bytes,
        in_flight=options.in_flight,
        seconds=options.seconds,
        warm_up_seconds=0,
    )
    used_ns = thread_ns(process_id) - before_ns
    images, batches = np.subtract(_batches(contender.running), batches_before)
    calls = len(load.call_s)
    return load.rate, images / max(1, batches), Counter({n: t // calls for n, t in used_ns.items()})


def _batches(running: Running) -> tuple[float, float]:
    """Images and batches that the server has computed so far; zeros of an echo."""
    size = "convscope_batch_size_rows"
    return running.metric(f"{size}_sum"), running.metric(f"{size}_count")


async def print_taken_away(options: argparse.Namespace, message: bytes) -> None:
    """The dispatcher, called here: µs a call, whole and with a part taken away."""
    server = Server(_config(options), NoTransport)
    await server.start()
    call = Call(options.method)
    whole = server.transport.dispatcher.unary
    empty = dispatched.dispatcher(len(await whole(message, call)))
    empty_call = Call(dispatched.METHOD)

    async def nothing(_: bytes, __: Call) -> bytes:
        return b""

    async def dispatcher_only(message: bytes, _: Call) -> bytes:
        return await empty.unary(message, empty_call)

    variants: dict[str, tuple[Handle, list[Any]]] = {
        "the caller": (nothing, []),
        "the caller, dispatcher": (dispatcher_only, []),
        "whole": (whole, []),
        "whole, but ONNX Runtime": (whole, [mock.patch.object(OrtSession, "run", Replay())]),
        "whole, but metrics": (whole, list(no_counting())),
    }

    async def measure(handle: Handle, patches: list[Any]) -> Cost:
        with ExitStack() as stack:
            for patch in patches:
                stack.enter_context(patch)
            return await drive(handle, message, call, options.in_flight, options.seconds)

    rounds = [
        {name: await measure(*variant) for name, variant in variants.items()}
        for _ in range(options.rounds)
    ]
    print("| called here | calls/s | event loop, µs a call | all threads, µs a call |")
    print("|---|---:|---:|---:|")
    for name in variants:
        rate, loop_us, all_us = (
            statistics.median(one[name][column] for one in rounds) for column in range(3)
        )
        print(f"| {name} | {rate:,.0f} | {loop_us:.1f} | {all_us:.1f} |")
    for part, more, less in (
        ("dispatcher", "the caller, dispatcher", "the caller"),
        ("ONNX Runtime", "whole", "whole, but ONNX Runtime"),
        ("metrics", "whole", "whole, but metrics"),
    ):
        loop_us, all_us = (
            statistics.median(one[more][column] - one[less][column] for one in rounds)
            for column in (1, 2)
        )
        print(f"| *so {part}* | | {loop_us:.1f} | {all_us:.1f} |")

    sampler = Sampler()
    with sampler.running():
        cost = await drive(whole, message, call, options.in_flight, 3 * options.seconds)
    print("\nWithout a transport: ", end="")
    sampler.print_tables(cost[1], options.lines)
    await server.stop()


async def print_over_grpcio(options: argparse.Namespace, message: bytes, answer_bytes: int) -> None:
    """Samples of a server in this process that h2load calls."""
    server = Server(_config(options), GrpcioTransport)
    await server.start()
    sampler = Sampler()
    with tempfile.TemporaryDirectory() as folder, sampler.running():
        body = Path(folder) / "request"
        body.write_bytes(h2load.framed(message))
        before_s = time.thread_time()
        load = await asyncio.to_thread(
            h2load.load,
            f"127.0.0.1:{server.port}",
            options.method,
            body,
            answer_bytes=answer_bytes,
            in_flight=options.in_flight,
            seconds=3 * options.seconds,
            warm_up_seconds=0,
        )
        used_s = time.thread_time() - before_s
    print("\nOver grpcio: ", end="")
    sampler.print_tables(1e6 * used_s / len(load.call_s), options.lines)
    await server.stop()


def _config(options: argparse.Namespace) -> ServerConfig:
    return ServerConfig(models=options.model, port=0, metrics_port=0)


# Calls/s; µs a call of the event loop's thread; of all threads.
Cost = tuple[float, float, float]


async def drive(handle: Handle, message: bytes, call: Call, in_flight: int, seconds: float) -> Cost:
    """Call as soon as one is answered the next, in so many tasks."""
    count = 0

    async def caller(ends_s: float) -> None:
        nonlocal count
        while time.perf_counter() < ends_s:
            for _ in range(16):  # the clock is not to be a cost of every call
                await handle(message, call)
                count += 1
            await asyncio.sleep(0)

    started_s, loop_s, all_s = time.perf_counter(), time.thread_time(), time.process_time()
    await asyncio.gather(*(caller(started_s + seconds) for _ in range(in_flight)))
    took_s = time.perf_counter() - started_s
    loop_us = 1e6 * (time.thread_time() - loop_s) / count
    return count / took_s, loop_us, 1e6 * (time.process_time() - all_s) / count


def main() -> None:
    """Measure and print Markdown tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=shipped_models() / "simple/1/model.onnx")
    parser.add_argument("--server-command", default="convscope serve", help="over the wire")
    parser.add_argument("--transports", nargs="+", choices=TRANSPORTS, default=TRANSPORTS)
    parser.add_argument("--service", choices=SERVICES, default="Classify")
    parser.add_argument("--in-flight", type=int, default=32)
    parser.add_argument("--rows", type=int, default=1, help="images a call")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--lines", type=int, default=20, help="lines of source to print")
    options = parser.parse_args()
    h2load.check_installed()
    service = SERVICES[options.service]
    options.method, message = service.unary, service.message("", options.rows, SIDE)
    print(
        f"{machine_text()}, {options.model}, {options.service}, {options.in_flight} calls of "
        f"{options.rows} images in flight, {options.rounds} rounds of {options.seconds:g} s\n"
    )
    answer_bytes = print_over_the_wire(options, message)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # as pyvoy has it
        runner.run(print_taken_away(options, message))
    asyncio.run(print_over_grpcio(options, message, answer_bytes))


if __name__ == "__main__":
    main()
