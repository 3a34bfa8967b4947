"""convscope over the wire, beside bare echoes and ONNX Runtime itself, in turn.

    python benchmarks/wire.py [--quick] [--json FILE]
    python benchmarks/wire.py --parts unary --models simple --in-flight 8 32 --rounds 5

Each round measures each case once: machines drift, what is measured side by side does not.
Printed are medians over the rounds, and ratios taken round by round with their range. The
generator is nghttp2's h2load, on the same machine. The parts:

- raw: ONNX Runtime in a process of its own, in batches of 1, 32 and 64, one caller with as
  many threads as there are processors, or as many callers with a thread each. The
  quickest of them is what the others are compared with; measured with any other part.
- unary: one image a request. The echoes take the same request and answer with as many
  bytes as convscope does.
- bulk: 64 images a request, 4 at a time.
- stream: one image a message, some streams at a time on one connection.
- start: from the start of the process until /readyz says 200.
- memory: the proportional set size of all processes of a server with one model, when it is
  ready and after a second of load.
"""

import argparse
import dataclasses
import json
import math
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import h2load
import networks
import processes
import report
from measurements import Case, Measurements
from networks import SIDE, Network
from raw import BATCH_SIZES, MODES, Raw, raw
from servers import TRANSPORTS, Running, convscope, echo, machine_text
from services import SERVICES, Service, answer_bytes, streamed_answer_bytes

PARTS = ("unary", "bulk", "stream", "start", "memory")
BULK_ROWS = 64
BULK_IN_FLIGHT = 4
# Messages of one stream: h2load sends a file, the same for each.
MAX_STREAM_MESSAGES = 4000
_WARM_UP_S = 0.3


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """What a case loads.

    Attributes:
        address: Where.
        method: Full name.
        body: File with the request, framed.
        answer_bytes: Of all answers of a call, framed.
        images: In a call.
        count: Calls to make; 0: for some seconds.
        server: Whose counter of images must have risen by as many; None of an echo.
    """

    address: str
    method: str
    body: Path
    answer_bytes: int
    images: int = 1
    count: int = 0
    server: Running | None = None


class Bench:
    """Servers that run, and what is to be measured of them."""

    def __init__(self, options: argparse.Namespace, stack: ExitStack) -> None:
        """Start everything; it ends with the stack."""
        self._options = options
        self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="convscope-")))
        self.networks = networks.collect(options.models, self._folder / "models")
        self.measurements = Measurements()
        self._targets: dict[Case, Target] = {}
        self._raw: dict[str, Raw] = {}
        if {"unary", "bulk", "stream"} & set(options.parts):
            self._start(stack)

    def _start(self, stack: ExitStack) -> None:
        options = self._options
        for network in self.networks:
            self._raw[network.name] = stack.enter_context(raw(network.path))
        for transport in options.transports:
            command = f"{options.server_command} --transport {transport}"
            server = stack.enter_context(convscope(command, str(self._folder / "models")))
            bare = stack.enter_context(echo(transport))
            # The echo's request is that of the first service to the first model.
            first = self.networks[0].name
            for network in self.networks:
                for service in SERVICES.values():
                    message = service.message(network.name, 1, SIDE)
                    size = answer_bytes(server.address, service, message)
                    if size is None:
                        print(f"{transport}: no {service.name}", file=sys.stderr)
                        continue
                    echoed = bare if network.name == first and service.name == "Classify" else None
                    if "unary" in options.parts:
                        self._add_unary(transport, server, echoed, network, service, size)
                    if "bulk" in options.parts:
                        self._add_bulk(transport, server, network, service)
                    if "stream" in options.parts:
                        self._add_stream(transport, server, echoed, network, service)

    def _add_unary(
        self,
        transport: str,
        server: Running,
        echoed: Running | None,
        network: Network,
        service: Service,
        size: int,
    ) -> None:
        body = self._body(service, network, 1, 1)
        target = Target(server.address, service.unary, body, size + h2load.PREFIX_BYTES)
        for in_flight in self._options.in_flight:
            for connections in self._options.connections:
                if in_flight % connections:
                    continue
                case = Case("unary", network.name, service.name, transport, in_flight, connections)
                if echoed:
                    self._targets[dataclasses.replace(case, server="echo")] = dataclasses.replace(
                        target, address=echoed.address, method=f"/echo/unary/{size}"
                    )
                self._targets[case] = target

    def _add_bulk(
        self, transport: str, server: Running, network: Network, service: Service
    ) -> None:
        message = service.message(network.name, BULK_ROWS, SIDE)
        size = answer_bytes(server.address, service, message)
        assert size is not None  # noqa: S101 - it had one for one image
        case = Case("bulk", network.name, service.name, transport, BULK_IN_FLIGHT)
        body = self._body(service, network, BULK_ROWS, 1)
        target = Target(
            *(server.address, service.unary, body, size + h2load.PREFIX_BYTES),
            images=BULK_ROWS,
            count=2 * BULK_IN_FLIGHT,
            server=server,
        )
        rate = self._run(case, target).rate
        wanted = math.ceil(rate * self._options.seconds / BULK_IN_FLIGHT) * BULK_IN_FLIGHT
        self._targets[case] = dataclasses.replace(target, count=max(wanted, target.count))

    def _add_stream(
        self,
        transport: str,
        server: Running,
        echoed: Running | None,
        network: Network,
        service: Service,
    ) -> None:
        message = service.message(network.name, 1, SIDE)
        size = streamed_answer_bytes(server.address, service, message)
        for streams in self._options.streams:
            case = Case("stream", network.name, service.name, transport, streams)
            self._targets_of_stream(case, server, service.stream, size, network, service)
            if echoed:
                case, method = dataclasses.replace(case, server="echo"), f"/echo/stream/{size}"
                self._targets_of_stream(case, echoed, method, size, network, service)

    def _targets_of_stream(
        self,
        case: Case,
        running: Running,
        method: str,
        size: int,
        network: Network,
        service: Service,
    ) -> None:
        """As many messages as take about the time that is wanted."""
        framed = size + h2load.PREFIX_BYTES

        def target(messages: int, count: int) -> Target:
            body = self._body(service, network, 1, messages)
            server = running if running.http else None
            return Target(running.address, method, body, messages * framed, messages, count, server)

        trial = target(256, case.in_flight)
        images = self._run(case, trial).rate * trial.images * self._options.seconds
        messages = min(MAX_STREAM_MESSAGES, max(64, round(images / case.in_flight, -1)))
        rounds = max(1, round(images / messages / case.in_flight))
        self._targets[case] = target(int(messages), rounds * case.in_flight)

    def _body(self, service: Service, network: Network, rows: int, messages: int) -> Path:
        path = self._folder / f"{service.name}-{network.name}-{rows}-{messages}"
        if not path.exists():
            path.write_bytes(h2load.framed(service.message(network.name, rows, SIDE)) * messages)
        return path

    def round(self) -> None:
        """Measure every case once."""
        for network in self.networks:
            if network.name in self._raw:
                self._raw_once(network.name)
            # What is compared with one another, one after the other.
            for case, target in sorted(self._targets.items(), key=lambda item: item[0].load):
                if case.model == network.name:
                    self._load_once(case, target)
            if {"start", "memory"} & set(self._options.parts):
                for transport in self._options.transports:
                    self._start_once(network, transport)

    def _raw_once(self, model: str) -> None:
        for mode in MODES:
            for batch_size in BATCH_SIZES:
                seconds = self._options.seconds / 2
                rate = self._raw[model].images_per_second(mode, batch_size, seconds)
                case = Case("raw", model, mode, in_flight=batch_size)
                self.measurements.add(case, images_per_s=rate)

    def _load_once(self, case: Case, target: Target) -> None:
        load = self._run(case, target)
        self.measurements.add(
            case,
            images_per_s=load.rate * target.images,
            p50_ms=load.percentile_ms(50),
            p99_ms=load.percentile_ms(99),
        )

    def _start_once(self, network: Network, transport: str) -> None:
        options = self._options
        service = SERVICES["Classify"]
        message = service.message("", 1, SIDE)
        with convscope(
            f"{options.server_command} --transport {transport}", str(network.path)
        ) as server:
            server.http_get("/readyz")
            if "start" in options.parts:
                case = Case("start", network.name, "convscope", transport)
                self.measurements.add(case, ready_s=server.ready_s)
            if "memory" not in options.parts:
                return
            before_bytes = processes.resident_bytes(server.process_id)
            size = answer_bytes(server.address, service, message)
            body = self._folder / "any"
            body.write_bytes(h2load.framed(message))
            h2load.load(
                *(server.address, service.unary, body),
                answer_bytes=size or 0,
                in_flight=32,
                seconds=1,
            )
            self.measurements.add(
                Case("memory", network.name, "convscope", transport),
                ready_mb=before_bytes / 1e6,
                loaded_mb=processes.resident_bytes(server.process_id) / 1e6,
            )

    def _run(self, case: Case, target: Target) -> h2load.Load:
        if not target.count:
            return h2load.load(
                *(target.address, target.method, target.body),
                answer_bytes=target.answer_bytes,
                in_flight=case.in_flight,
                connections=case.connections,
                seconds=self._options.seconds,
                warm_up_seconds=_WARM_UP_S,
            )
        images_before = target.server.metric("convscope_images_total") if target.server else 0
        load = h2load.load_count(
            *(target.address, target.method, target.body),
            answer_bytes=target.answer_bytes,
            count=target.count,
            in_flight=case.in_flight,
        )
        if target.server:
            images = target.server.metric("convscope_images_total") - images_before
            # More may come of calls that were under way when an earlier case ended.
            if images < target.images * target.count:
                raise SystemExit(
                    f"{case}: expected {target.images * target.count} images, got {images:.0f}"
                )
        return load


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--models", nargs="+", choices=networks.NAMES)
    parser.add_argument("--transports", nargs="+", choices=TRANSPORTS, default=TRANSPORTS)
    parser.add_argument("--in-flight", nargs="+", type=int, help="calls (default: 1 8 32 128)")
    parser.add_argument("--connections", nargs="+", type=int, help="(default: 1 8)")
    parser.add_argument("--streams", nargs="+", type=int, help="at a time (default: 1 4)")
    parser.add_argument("--rounds", type=int, help="(default: 3)")
    parser.add_argument("--seconds", type=float, help="of each case in each round (default: 0.8)")
    parser.add_argument("--server-command", default="convscope serve", help="of another build")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all numbers, for later")
    parser.add_argument("--quick", action="store_true", help="other defaults: about two minutes")
    options = parser.parse_args()
    long_form = (list(networks.NAMES), [1, 8, 32, 128], [1, 8], [1, 4], 3, 0.8)
    quick_form = (["simple", "airbench94"], [1, 32], [1], [4], 1, 0.7)
    names = ("models", "in_flight", "connections", "streams", "rounds", "seconds")
    for name, value in zip(names, quick_form if options.quick else long_form, strict=True):
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


def main() -> None:
    """Measure and print Markdown tables."""
    options = parsed()
    h2load.check_installed()
    machine, started_s = machine_text(), time.perf_counter()
    with ExitStack() as stack:
        bench = Bench(options, stack)
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
            bench.round()
    minutes = (time.perf_counter() - started_s) / 60
    models = "; ".join(f"{network.name}: {network.origin}" for network in bench.networks)
    print(
        f"{machine}, {options.rounds} rounds of {options.seconds:g} s, {minutes:.0f} minutes, "
        f"`{options.server_command}`\n\nModels: {models}\n"
    )
    report.print_tables(bench.measurements)
    if options.json:
        cases = bench.measurements.values.items()
        content = {
            "machine": machine,
            "options": vars(options),
            "networks": [dataclasses.asdict(network) for network in bench.networks],
            "cases": [dataclasses.asdict(case) | {"rounds": values} for case, values in cases],
        }
        options.json.write_text(json.dumps(content, indent=1, default=str) + "\n")


if __name__ == "__main__":
    main()
