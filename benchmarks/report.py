"""Tables of what wire.py measured, and beside the numbers that convscope is built to reach."""

import dataclasses
import statistics
from collections.abc import Iterator

from measurements import Case, Measurements, spread, table

RATE = "images_per_s"
TINY = "simple"
SHIPPED = ("simple", "cifar10")
# The best of today's servers (TorchServe, KServe, Triton through PyTriton, Ray Serve, LitServe,
# MLServer, BentoML) with a model of this size on 2 processors, by calls in flight, calls/s.
BEST_OTHERS = {8: 2800, 32: 3350, 128: 5500}


def print_tables(measured: Measurements) -> None:
    """Print everything there is."""
    for part, print_part in (
        ("raw", _print_raw),
        ("unary", _print_unary),
        ("bulk", _print_bulk),
        ("stream", _print_stream),
        ("start", _print_start),
        ("memory", _print_memory),
    ):
        if measured.cases(part):
            print_part(measured)
    print("Numbers of the design\n")
    head = "number|what|wanted:|measured:|reached"
    rows = [
        [what, case, f"{sign} {wanted:g}", value, "yes" if reached else "**no**"]
        for what, case, sign, wanted, value, reached in _verdicts(measured)
    ]
    print(table(head, rows))


def _print_raw(measured: Measurements) -> None:
    print("ONNX Runtime alone, images/s\n")
    cases = measured.cases("raw")
    sizes = sorted({case.in_flight for case in cases})
    rows = [
        [model, mode]
        + [
            f"{measured.median(Case('raw', model, mode, in_flight=size), RATE):,.0f}"
            for size in sizes
        ]
        for model, mode in dict.fromkeys((case.model, case.server) for case in cases)
    ]
    print(table("model|mode|" + "|".join(f"batch {size}:" for size in sizes), rows))


def _print_unary(measured: Measurements) -> None:
    print("One image a call\n")
    rows = [
        [
            case.model,
            str(case.in_flight),
            str(case.connections),
            case.transport,
            case.server,
            f"{measured.median(case, RATE):,.0f}",
            _of_echo(measured, case, RATE),
            _of_raw(measured, case),
            f"{measured.median(case, 'p50_ms'):.2f}",
            _of_echo(measured, case, "p50_ms"),
            f"{measured.median(case, 'p99_ms'):.2f}",
        ]
        for case in measured.cases("unary")
    ]
    head = "model|in flight:|connections:|transport|server|calls/s:|of its echo:"
    print(table(f"{head}|of ONNX Runtime:|p50 ms:|of its echo's:|p99 ms:", rows))


def _print_bulk(measured: Measurements) -> None:
    print("64 images a call\n")
    rows = [
        [
            *(case.model, str(case.in_flight), case.transport, case.server),
            f"{measured.median(case, RATE):,.0f}",
            _of_raw(measured, case),
            f"{measured.median(case, 'p50_ms'):.1f}",
        ]
        for case in measured.cases("bulk")
    ]
    head = "model|in flight:|transport|server|images/s:|of ONNX Runtime:|p50 ms:"
    print(table(head, rows))


def _print_stream(measured: Measurements) -> None:
    print("Streams of one image a message\n")
    rows = [
        [
            *(case.model, str(case.in_flight), case.transport, case.server),
            f"{measured.median(case, RATE):,.0f}",
            _of_echo(measured, case, RATE),
            _of_raw(measured, case),
        ]
        for case in measured.cases("stream")
    ]
    head = "model|streams:|transport|server|messages/s:|of its echo:|of ONNX Runtime:"
    print(table(head, rows))


def _print_start(measured: Measurements) -> None:
    print("Start to ready\n")
    rows = []
    for case in measured.cases("start"):
        all_s = [one["ready_s"] for one in measured.values[case]]
        cell = f"{statistics.median(all_s):.2f} ({min(all_s):.2f}–{max(all_s):.2f})"
        rows.append([case.model, case.transport, cell])
    print(table("model|transport|s:", rows))


def _print_memory(measured: Measurements) -> None:
    print("Resident memory, one model\n")
    rows = [
        [
            *(case.model, case.transport),
            f"{measured.median(case, 'ready_mb'):.0f}",
            f"{measured.median(case, 'loaded_mb'):.0f}",
        ]
        for case in measured.cases("memory")
    ]
    print(table("model|transport|when ready, MB:|after load, MB:", rows))


def _echo_of(case: Case) -> Case:
    """The echo under the same load; only beside the first model is there one."""
    return dataclasses.replace(case, server="echo")


def _of_echo(measured: Measurements, case: Case, name: str) -> str:
    return spread(measured.ratios(case, _echo_of(case), name)) if case.server != "echo" else ""


def _of_raw(measured: Measurements, case: Case) -> str:
    best = measured.best_raw(case.model)
    return spread(measured.ratios(case, best, RATE)) if best and case.server != "echo" else ""


# What, of which case, "≥" or "≤", the number, as measured, whether it was reached.
Verdict = tuple[str, str, str, float, str, bool]


def _verdicts(measured: Measurements) -> Iterator[Verdict]:
    for case in measured.cases("unary"):
        if case.server != "echo":
            yield from _unary_verdicts(measured, case)
    for part, tiny, real in (("bulk", 0.7, 0.95), ("stream", 0.5, None)):
        for case in measured.cases(part):
            best = measured.best_raw(case.model)
            wanted = tiny if case.model == TINY else real
            if best and wanted and case.server != "echo":
                yield _at_least(
                    f"{part}: images/s of ONNX Runtime's",
                    case,
                    wanted,
                    measured.ratios(case, best, RATE),
                )
    for case in measured.cases("start"):
        if case.model not in SHIPPED:
            continue
        yield _at_most("start to ready, s", case, 1.0, measured.median(case, "ready_s"))
    for case in measured.cases("memory"):
        limit_mb = 200.0 if case.transport == "envoy" else 150.0
        yield _at_most("resident, MB", case, limit_mb, measured.median(case, "loaded_mb"))


def _unary_verdicts(measured: Measurements, case: Case) -> Iterator[Verdict]:
    if case.model != TINY:
        best = measured.best_raw(case.model)
        if best and case.in_flight == 32:
            ratios = measured.ratios(case, best, RATE)
            yield _at_least("one image a call: of ONNX Runtime's images/s", case, 0.92, ratios)
        return
    if case.in_flight == 1:
        ratios = measured.ratios(case, _echo_of(case), "p50_ms")
        if ratios:
            value = statistics.median(ratios)
            name = "one at a time: p50 of its echo's"
            yield name, _label(case), "≤", 1.3, spread(ratios), value <= 1.3
        return
    wanted = 0.5 if case.transport == "envoy" else 0.9
    ratios = measured.ratios(case, _echo_of(case), RATE)
    if ratios:
        yield _at_least("one image a call: of its echo's calls/s", case, wanted, ratios)
    if case.transport == "envoy" and case.in_flight in BEST_OTHERS:
        others = 3 * BEST_OTHERS[case.in_flight]
        rate = measured.median(case, RATE)
        name = "one image a call: 3 × the best other server's calls/s"
        yield name, _label(case), "≥", others, f"{rate:,.0f}", rate >= others


def _at_least(name: str, case: Case, wanted: float, ratios: list[float]) -> Verdict:
    value = statistics.median(ratios)
    return name, _label(case), "≥", wanted, spread(ratios), value >= wanted


def _at_most(name: str, case: Case, wanted: float, value: float) -> Verdict:
    return name, _label(case), "≤", wanted, f"{value:.3g}", value <= wanted


def _label(case: Case) -> str:
    words = [case.model, case.server, case.transport]
    if case.part in ("unary", "bulk", "stream"):
        words.append(f"{case.in_flight} × {case.connections}")
    return ", ".join(words)
