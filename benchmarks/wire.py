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
from servers import TRANSPORTS, convscope, machine_text
from services import SERVICES, answer_bytes
from targets import Targets

PARTS = ("unary", "bulk", "stream", "start", "memory")


class Bench:
    """What is to be measured, and what was.

    Attributes:
        networks: The models.
        measurements: Of all rounds so far.
        targets: Servers and echoes; None where only starts are measured.
    """

    def __init__(self, options: argparse.Namespace, stack: ExitStack) -> None:
        """Start everything; it ends with the stack."""
        self._options = options
        self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="convscope-")))
        self.networks = networks.collect(options.models, self._folder / "models")
        self.measurements = Measurements()
        self.targets: Targets | None = None
        self._raw: dict[str, Raw] = {}
        if {"unary", "bulk", "stream"} & set(options.parts):
            self.targets = Targets(options, self.networks, self._folder, stack)
            for network in self.networks:
                self._raw[network.name] = stack.enter_context(raw(network.path))

    def round(self) -> None:
        """Measure every case once."""
        for network in self.networks:
            if network.name in self._raw:
                self._raw_once(network.name)
            # What is compared with one another, one after the other.
            for case in sorted(self.targets.by_case if self.targets else (), key=Case.by_load):
                if case.model == network.name:
                    self._load_once(case)
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

    def _load_once(self, case: Case) -> None:
        assert self.targets is not None  # noqa: S101 - it has the case
        load = self.targets.load(case)
        self.measurements.add(
            case,
            images_per_s=load.rate * self.targets.by_case[case].images,
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
    placements = bench.targets.placements if bench.targets else {}
    if placements:
        print("; ".join(f"{what}: {how}" for what, how in placements.items()) + "\n")
    report.print_tables(bench.measurements)
    if options.json:
        cases = bench.measurements.values.items()
        content = {
            "machine": machine,
            "options": vars(options),
            "placements": placements,
            "models": {network.name: network.origin for network in bench.networks},
            "cases": [dataclasses.asdict(case) | {"rounds": values} for case, values in cases],
        }
        options.json.write_text(json.dumps(content, indent=1, default=str) + "\n")


if __name__ == "__main__":
    main()
