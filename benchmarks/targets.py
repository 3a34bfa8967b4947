"""The cases that load a server or an echo, and how each is loaded."""

import dataclasses
import math
import sys
from argparse import Namespace
from contextlib import ExitStack
from pathlib import Path

import h2load
from measurements import Case
from networks import SIDE, Network
from servers import Running, convscope, echo
from services import SERVICES, Service, answer_bytes, streamed_answer_bytes

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


class Targets:
    """Servers and echoes that run, and every case of theirs.

    Attributes:
        by_case: How each case is loaded.
        placements: How the servers run each model, by transport and model.
    """

    def __init__(
        self, options: Namespace, networks: list[Network], folder: Path, stack: ExitStack
    ) -> None:
        """Start servers with these networks; they end with the stack.

        Args:
            options: wire.py's.
            networks: What is served; they lie in folder / "models".
            folder: For requests, too.
            stack: Ends what is started.
        """
        self._options = options
        self._folder = folder
        self.by_case: dict[Case, Target] = {}
        self.placements: dict[str, str] = {}
        for transport in options.transports:
            command = f"{options.server_command} --transport {transport}"
            server = stack.enter_context(convscope(command, str(self._folder / "models")))
            for model, how in server.models.items():
                self.placements[f"{model} over {transport}"] = how
            bare = stack.enter_context(echo(transport))
            # The echo's request is that of the first service to the first model.
            first = networks[0].name
            for network in networks:
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
                    self.by_case[dataclasses.replace(case, server="echo")] = dataclasses.replace(
                        target, address=echoed.address, method=f"/echo/unary/{size}"
                    )
                self.by_case[case] = target

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
        rate = self._load(case, target).rate
        wanted = math.ceil(rate * self._options.seconds / BULK_IN_FLIGHT) * BULK_IN_FLIGHT
        self.by_case[case] = dataclasses.replace(target, count=max(wanted, target.count))

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
        images = self._load(case, trial).rate * trial.images * self._options.seconds
        messages = min(MAX_STREAM_MESSAGES, max(64, round(images / case.in_flight, -1)))
        rounds = max(1, round(images / messages / case.in_flight))
        self.by_case[case] = target(int(messages), rounds * case.in_flight)

    def _body(self, service: Service, network: Network, rows: int, messages: int) -> Path:
        path = self._folder / f"{service.name}-{network.name}-{rows}-{messages}"
        if not path.exists():
            path.write_bytes(h2load.framed(service.message(network.name, rows, SIDE)) * messages)
        return path

    def load(self, case: Case) -> h2load.Load:
        """Load one case."""
        return self._load(case, self.by_case[case])

    def _load(self, case: Case, target: Target) -> h2load.Load:
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
