"""inference.GRPCInferenceService: settings of tracing and logging while the server runs."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from convscope_proto.inference import grpc_service_pb2 as pb
from convscope_server import codec
from convscope_server.call import Call, Methods, Unary
from convscope_server.errors import Forbidden, InvalidRequest, Unsupported
from convscope_server.log import FORMATS, LogSettings, change_logging, log_settings
from convscope_server.served_models import Models
from convscope_server.servicers.open_inference import SERVICE
from convscope_server.trace import Tracer

_LEVELS = ("OFF", "TIMESTAMPS", "TENSORS")
# Settings with whole numbers, and the least of them; the most is int32's, as Triton's.
_NUMBERS = {"trace_rate": 1, "trace_count": -1, "log_frequency": 0}
_MAX_NUMBER = (1 << 31) - 1
_FIXED = ("trace_file", "trace_mode")
_FIELDS = {
    "trace_level": "level",
    "trace_rate": "rate",
    "trace_count": "count",
    "log_frequency": "log_frequency",
}
_LOG_FLAGS = ("log_info", "log_warning", "log_error")


class OpenInferenceSettingsServicer:
    """Tells settings to everybody, and lets those change them whom the server lets."""

    def __init__(self, tracer: Tracer, models: Models, *, control: str, workers: int) -> None:
        """Take what is changed.

        Args:
            tracer: What traces requests.
            models: Those that may have settings of their own.
            control: Who may change settings: "local", callers on this machine; "any"; "off".
            workers: How many processes share the port.
        """
        self._tracer = tracer
        self._control = control
        self._models = models
        self._workers = workers

    def methods(self) -> Methods:
        """The service's methods by their full names."""
        return {
            f"/{SERVICE}/TraceSetting": Unary(self.trace_setting),
            f"/{SERVICE}/LogSettings": Unary(self.log_settings),
        }

    async def trace_setting(self, message: bytes, call: Call) -> bytes:
        """Change what the request names, and tell all that then holds."""
        request = codec.parse(pb.TraceSettingRequest, message)
        model = self._models.get(request.model_name, "").name if request.model_name else ""
        if request.settings:
            self._check_allowed(call)
            changes = self._trace_changes(request.settings)
            self._tracer.change(changes, model)
        settings = self._tracer.settings(model)
        response = pb.TraceSettingResponse()
        for name, value in (
            ("trace_level", settings.level),
            ("trace_rate", settings.rate),
            ("trace_count", settings.count),
            ("log_frequency", settings.log_frequency),
            ("trace_mode", "triton"),
            ("trace_file", "" if self._tracer.path is None else self._tracer.path.name),
        ):
            response.settings[name].value.append(str(value))
        return response.SerializeToString()

    async def log_settings(self, message: bytes, call: Call) -> bytes:
        """Change what the request names, and tell all that then holds."""
        request = codec.parse(pb.LogSettingsRequest, message)
        if request.settings:
            self._check_allowed(call)
            change_logging(_changed(log_settings(), request.settings))
        settings = log_settings()
        response = pb.LogSettingsResponse()
        response.settings["log_file"].string_param = ""
        response.settings["log_info"].bool_param = settings.info
        response.settings["log_warning"].bool_param = settings.warning
        response.settings["log_error"].bool_param = settings.error
        response.settings["log_verbose_level"].uint32_param = settings.verbose_level
        response.settings["log_format"].string_param = settings.format
        return response.SerializeToString()

    def _check_allowed(self, call: Call) -> None:
        if self._control == "off":
            raise Unsupported("settings are fixed: expected --settings-control local or any")
        if self._control == "local" and not call.is_local:
            raise Forbidden("expected a caller on the server's own machine to change settings")
        if self._workers > 1:
            raise Unsupported(
                f"expected --workers 1 to change settings, got {self._workers}: "
                "it would reach one of them only"
            )

    def _trace_changes(
        self, settings: Mapping[str, pb.TraceSettingRequest.SettingValue]
    ) -> dict[str, str | int | None]:
        changes: dict[str, str | int | None] = {}
        for name, setting in settings.items():
            values = list(setting.value)
            if name in _FIXED:
                raise Unsupported(f"{name} cannot be changed: it is set when the server starts")
            if name not in _FIELDS:
                raise InvalidRequest(
                    f"expected a trace setting of {', '.join(_FIELDS)}, got {name[:100]!r}"
                )
            if not values:
                changes[_FIELDS[name]] = None
            elif name == "trace_level":
                changes["level"] = self._level(values)
            else:
                changes[_FIELDS[name]] = _number(name, values)
        return changes

    def _level(self, values: list[str]) -> str:
        if not set(values) <= set(_LEVELS):
            raise InvalidRequest(
                f"expected a trace_level of OFF or TIMESTAMPS, got {', '.join(values)[:100]!r}"
            )
        if "TENSORS" in values:
            raise Unsupported("trace_level TENSORS is not supported: ask for feature maps instead")
        if "OFF" in values:
            if len(values) > 1:
                raise InvalidRequest(
                    f"expected trace_level OFF alone, got {', '.join(values)[:100]!r}"
                )
            return "OFF"
        if self._tracer.path is None:
            raise InvalidRequest("nothing can be traced: start the server with --trace-file")
        return "TIMESTAMPS"


def _number(name: str, values: list[str]) -> int:
    least = _NUMBERS[name]
    text = values[0]
    is_number = len(values) == 1 and len(text) < 12 and text.removeprefix("-").isdecimal()
    if not is_number or not least <= int(text) <= _MAX_NUMBER:
        raise InvalidRequest(
            f"expected {name} to be one whole number from {least} to {_MAX_NUMBER}, "
            f"got {', '.join(values)[:100]!r}"
        )
    return int(text)


def _changed(
    current: LogSettings, settings: Mapping[str, pb.LogSettingsRequest.SettingValue]
) -> LogSettings:
    for name, setting in settings.items():
        kind = setting.WhichOneof("parameter_choice")
        value: Any = getattr(setting, kind) if kind else None
        if name == "log_file":
            raise Unsupported("log_file cannot be changed: the server writes to standard error")
        if name in _LOG_FLAGS:
            expected, fits = "true or false", kind == "bool_param"
        elif name == "log_verbose_level":
            expected, fits = "a whole number", kind == "uint32_param"
        elif name == "log_format":
            expected, fits = f"one of {', '.join(FORMATS)}", value in FORMATS
        else:
            known = ", ".join((*_LOG_FLAGS, "log_verbose_level", "log_format"))
            raise InvalidRequest(f"expected a log setting of {known}, got {name[:100]!r}")
        if not fits:
            raise InvalidRequest(f"{name}: expected {expected}, got {str(value)[:100]!r}")
        current = replace(current, **{name.removeprefix("log_"): value})
    return current
