"""Every setting of the server, validated once. cli.py makes a flag of each."""

from dataclasses import dataclass
from pathlib import Path

from convscope_server.errors import StartupError
from convscope_server.version_policy import VersionPolicy

# In a wheel the shipped models lie inside the package, in a checkout at its root.
_IN_WHEEL = Path(__file__).parent / "models"
_IN_CHECKOUT = Path(__file__).parents[2] / "models"
# Of the models that come with convscope, the one that answers requests that name none.
SHIPPED_DEFAULT_MODEL = "cifar10"


def shipped_models() -> Path:
    """The folder of the models that come with convscope."""
    return _IN_WHEEL if _IN_WHEEL.is_dir() else _IN_CHECKOUT


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Settings of one server.

    Attributes:
        models: A folder in the layout <name>/<version>/model.onnx, or one .onnx file.
        default_model: Answers requests that name no model; empty: the only model there is.
        model_control: "none": all models are loaded at the start and stay; "explicit":
            load_model's are, and callers load and unload; "poll": models follow the folder.
        load_model: Names to load at the start in the mode explicit; "*" for all.
        poll_interval_s: Between two looks at the folder in the mode poll.
        version_policy: Which versions are served: "latest:N", "all" or "specific:V,V".
        exit_on_error: Do not start where a model fails to load.
        device: Where models run: "cpu" or "cuda"; one that is not there is an error.
        host, port: Where gRPC listens; port 0 takes a free one.
        metrics_host, metrics_port: Where HTTP listens.
        max_batch_size: Most rows of one batch.
        max_queue_rows, max_queue_bytes: Most that waits for one model; so also the most
            that one request may hold.
        max_queue_delay_ms: How long a batch that is not full waits for more rows.
        max_concurrent_calls: Most calls that are answered at a time; more are refused.
        max_concurrent_streams: Most calls at a time on one connection; clients are told, and
            wait. Not too low: gRPC's server refuses some that come close to it (UNAVAILABLE).
        max_message_bytes: Largest gRPC message, either way.
        keepalive_time_s: An idle connection is tried after this long.
        keepalive_timeout_s: And closed if that is not answered within this.
        max_in_flight_bytes: Memory that all requests together may need at a time: their
            messages, pixels, feature maps and answers; more is refused.
        max_picture_pixels: Largest picture that is decoded, in pixels.
        thread_count: Threads of one batch; 0: the processors this process may use, shared
            among the workers.
        workers: Processes that share the port, each with its own models, queues and limits.
        shared_memory: Whose shared memory tensors may lie in: "local", that of callers on this
            machine; "any", of containers too that share it; "off", nobody's.
        settings_control: Who may change settings of logs and traces by calls: "local", callers
            on this machine; "any"; "off", nobody.
        trace_file: Where traces of requests go, which callers on this machine turn on; None:
            there are none.
        grace_period_s: After SIGTERM, how long calls are still taken while health
            already says NOT_SERVING, so that load balancers turn away first.
        drain_timeout_s: After that, how long calls in flight may take to finish.
        transport: What carries gRPC: "envoy", "grpcio", or "auto", which is envoy
            where pyvoy is installed.
        tls_certificate, tls_key: PEM files, the certificate with its chain; without
            them the port takes plain connections.
        tls_client_ca: PEM file; clients must have a certificate that it signed.
    """

    models: Path
    default_model: str = ""
    model_control: str = "none"
    load_model: tuple[str, ...] = ()
    poll_interval_s: float = 15.0
    version_policy: str = "latest:1"
    exit_on_error: bool = True
    device: str = "cpu"
    host: str = "127.0.0.1"
    port: int = 8001
    metrics_host: str = "127.0.0.1"
    metrics_port: int = 8002
    max_batch_size: int = 64
    max_queue_rows: int = 4096
    max_queue_bytes: int = 256 << 20
    max_queue_delay_ms: float = 0.0
    max_concurrent_calls: int = 10_000
    max_concurrent_streams: int = 10_000
    max_message_bytes: int = 64 << 20
    keepalive_time_s: float = 60.0
    keepalive_timeout_s: float = 20.0
    max_in_flight_bytes: int = 2 << 30
    max_picture_pixels: int = 50_000_000
    thread_count: int = 0
    workers: int = 1
    shared_memory: str = "local"
    settings_control: str = "local"
    trace_file: Path | None = None
    grace_period_s: float = 2.0
    drain_timeout_s: float = 30.0
    transport: str = "auto"
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None

    def __post_init__(self) -> None:
        """Check what no flag's type checks.

        Raises:
            StartupError: A value is out of its range.
        """
        ranges = {
            "port": (self.port, 0, 65535),
            "metrics_port": (self.metrics_port, 0, 65535),
            "poll_interval_s": (self.poll_interval_s, 0.01, 86400),
            "max_batch_size": (self.max_batch_size, 1, 65535),
            "max_queue_rows": (self.max_queue_rows, 1, 1 << 31),
            "max_queue_bytes": (self.max_queue_bytes, 1, 1 << 40),
            "max_queue_delay_ms": (self.max_queue_delay_ms, 0, 60_000),
            "max_concurrent_calls": (self.max_concurrent_calls, 1, 1 << 20),
            "max_concurrent_streams": (self.max_concurrent_streams, 1, 1 << 20),
            "keepalive_time_s": (self.keepalive_time_s, 1, 86_400),
            "keepalive_timeout_s": (self.keepalive_timeout_s, 1, 3600),
            # Protobuf's own limit is 2 GiB.
            "max_message_bytes": (self.max_message_bytes, 1024, (1 << 31) - 1),
            "max_in_flight_bytes": (self.max_in_flight_bytes, 1 << 20, 1 << 50),
            "max_picture_pixels": (self.max_picture_pixels, 1, 1 << 31),
            "thread_count": (self.thread_count, 0, 1024),
            "workers": (self.workers, 1, 256),
            "grace_period_s": (self.grace_period_s, 0, 3600),
            "drain_timeout_s": (self.drain_timeout_s, 0, 3600),
        }
        for name, (value, low, high) in ranges.items():
            if not low <= value <= high:
                flag = name.replace("_", "-")
                raise StartupError(f"expected --{flag} from {low} to {high}, got {value}")
        VersionPolicy.parse(self.version_policy)
        if self.load_model and self.model_control != "explicit":
            raise StartupError("--load-model is for --model-control explicit: give both or neither")
        if self.workers > 1 and self.model_control == "explicit":
            raise StartupError(
                f"expected --workers 1 with --model-control explicit, got {self.workers}: "
                "a caller's load or unload would reach one of them only"
            )
        if self.workers > 1 and self.transport == "envoy":
            raise StartupError(
                f"expected --workers 1 with --transport envoy, got {self.workers}: "
                "several workers take --transport grpcio"
            )
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise StartupError("expected --tls-certificate and --tls-key together, got one of them")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise StartupError("expected --tls-certificate and --tls-key with --tls-client-ca")
        for name in ("tls_certificate", "tls_key", "tls_client_ca"):
            file: Path | None = getattr(self, name)
            if file is not None and not file.is_file():
                flag = name.replace("_", "-")
                raise StartupError(f"expected --{flag} to be a PEM file, found none at {file}")
