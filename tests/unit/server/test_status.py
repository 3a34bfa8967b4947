import grpc
import pytest

from convscope_server import errors
from convscope_server.status import CODES, Code, rpc_failure

# These end the process; no call ever meets them.
_NEVER_ON_THE_WIRE = {errors.ProcessDied, errors.StartupError}


def test_every_domain_error_has_a_code() -> None:
    assert set(CODES) == set(errors.ServerError.__subclasses__()) - _NEVER_ON_THE_WIRE


def test_the_codes_are_grpcs() -> None:
    assert {code.name: code.value for code in Code}.items() <= {
        code.name: code.value[0] for code in grpc.StatusCode
    }.items()


@pytest.mark.parametrize("kind", set(CODES) - {errors.Overloaded})
def test_the_message_goes_out_unchanged(kind: type[errors.ServerError]) -> None:
    failure = rpc_failure(kind("expected this, got that"))
    assert (failure.code, failure.message) == (CODES[kind], "expected this, got that")
    assert failure.trailers == ()


def test_overload_tells_when_to_come_back() -> None:
    failure = rpc_failure(errors.Overloaded("full", reason="queue_full", retry_after_ms=42))
    assert failure.trailers == (("grpc-retry-pushback-ms", "42"),)
