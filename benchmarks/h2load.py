"""nghttp2's h2load as a generator of gRPC calls: it takes far less of a machine than Python."""

import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Float64Array = npt.NDArray[np.float64]

# Of gRPC's framing, before each message.
PREFIX_BYTES = 5
_HEADERS = ("-Hcontent-type: application/grpc", "-Hte: trailers")
# Answers differ by a few bytes (numbers of varying length); a refused call has none.
_LEAST_OF_ANSWER = 0.8


@dataclass(frozen=True, slots=True)
class Load:
    """What one run saw.

    Attributes:
        rate: Calls a second.
        call_s: Seconds of each call.
    """

    rate: float
    call_s: Float64Array

    def percentile_ms(self, percent: float) -> float:
        """The milliseconds within which this part of the calls was answered."""
        return float(np.percentile(self.call_s, percent)) * 1000


def check_installed() -> None:
    """Exit with what to do if there is no h2load."""
    if shutil.which("h2load") is None:
        raise SystemExit("expected h2load, found none: apt-get install nghttp2-client")


def framed(message: bytes) -> bytes:
    """A message as it goes on the wire."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def load(
    address: str,
    method: str,
    body: Path,
    *,
    answer_bytes: int,
    in_flight: int,
    connections: int = 1,
    seconds: float,
    warm_up_seconds: float = 0.5,
) -> Load:
    """Call for some seconds, as soon as one is answered the next.

    Args:
        address: The server's.
        method: Full name, such as "/convscope.v1.Classifier/Classify".
        body: A file with the request, framed.
        answer_bytes: About so many must come back for each call, frames included: h2load
            takes a gRPC error for a success.
        in_flight: Calls at a time, over all connections.
        connections: Over how many.
        seconds: How long.
        warm_up_seconds: How long before that.
    """
    command = [f"-D{round(seconds * 1000)}ms", f"--warm-up-time={round(warm_up_seconds * 1000)}ms"]
    started_s, call_s = _run(
        command, address, method, body, answer_bytes, in_flight, connections, seconds + 60
    )
    ended_s = np.sort(started_s + call_s)
    if len(ended_s) < 4 * in_flight:
        return Load(len(ended_s) / seconds, call_s)
    # Batches end together: from the end of one to the end of another, the edges of the
    # time that is measured do not matter.
    counted_s = float(ended_s[-1] - ended_s[in_flight - 1])
    return Load((len(ended_s) - in_flight) / counted_s, call_s)


def load_count(
    address: str,
    method: str,
    body: Path,
    *,
    answer_bytes: int,
    count: int,
    in_flight: int = 1,
    connections: int = 1,
) -> Load:
    """The same with so many calls, however long they take, from the first to the last answer."""
    started_s, call_s = _run(
        [f"-n{count}"], address, method, body, answer_bytes, in_flight, connections, 600
    )
    return Load(len(call_s) / float((started_s + call_s).max() - started_s.min()), call_s)


def _run(
    arguments: list[str],
    address: str,
    method: str,
    body: Path,
    answer_bytes: int,
    in_flight: int,
    connections: int,
    timeout_s: float,
) -> tuple[Float64Array, Float64Array]:
    if in_flight % connections:
        raise SystemExit(f"expected calls in flight in multiples of {connections} connections")
    with tempfile.NamedTemporaryFile("r") as log:
        command = ["h2load", *arguments, f"-c{connections}", f"-m{in_flight // connections}"]
        command += [*_HEADERS, f"--data={body}", f"--log-file={log.name}"]
        command.append(f"http://{address}{method}")
        printed = subprocess.run(  # noqa: S603
            command, check=True, capture_output=True, text=True, timeout=timeout_s
        ).stdout
        rows = np.loadtxt(log, ndmin=2)
    # 0 for one whose headers came while it warmed up.
    if not len(rows) or not np.isin(rows[:, 1], (200, 0)).all():
        raise SystemExit(f"{address}{method} did not answer with status 200:\n{printed}")
    data = re.search(r"\((\d+)\) data", printed)
    if data is None or int(data[1]) < _LEAST_OF_ANSWER * answer_bytes * len(rows):
        raise SystemExit(
            f"expected {len(rows)} answers of {answer_bytes} bytes from {address}{method}, "
            f"got:\n{printed}"
        )
    return rows[:, 0] / 1e6, rows[:, 2] / 1e6
