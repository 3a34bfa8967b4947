"""Every setting of the server, validated once. cli.py makes a flag of each."""

from dataclasses import dataclass
from pathlib import Path

from convscope_server.errors import StartupError

# In a wheel the shipped models lie inside the package, in a checkout at its root.
_IN_WHEEL = Path(__file__).parent / "models"
_IN_CHECKOUT = Path(__file__).parents[2] / "models"


def shipped_models() -> Path:
    """The folder of the models that come with convscope."""
    return _IN_WHEEL if _IN_WHEEL.is_dir() else _IN_CHECKOUT


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Settings of one server.

    Attributes:
        models: A folder in the layout <name>/<version>/model.onnx, or one .onnx file.
        default_model: Answers requests that name no model; empty: the only model there is.
        device: Where models run: "cpu" or "cuda"; one that is not there is an error.
        host, port: Where gRPC listens; port 0 takes a free one.
        metrics_host, metrics_port: Where HTTP listens.
        max_batch_size: Most rows of one batch.
        max_queue_rows, max_queue_bytes: Most that waits for one model.
        max_message_bytes: Largest gRPC message, either way.
        max_picture_pixels: Largest picture that is decoded, in pixels.
        thread_count: Threads of one batch; 0: the processors this process may use.
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
    device: str = "cpu"
    host: str = "127.0.0.1"
    port: int = 8001
    metrics_host: str = "127.0.0.1"
    metrics_port: int = 8002
    max_batch_size: int = 64
    max_queue_rows: int = 4096
    max_queue_bytes: int = 256 << 20
    max_message_bytes: int = 64 << 20
    max_picture_pixels: int = 50_000_000
    thread_count: int = 0
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
            "max_batch_size": (self.max_batch_size, 1, 65535),
            "max_queue_rows": (self.max_queue_rows, 1, 1 << 31),
            "max_queue_bytes": (self.max_queue_bytes, 1, 1 << 40),
            # Protobuf's own limit is 2 GiB.
            "max_message_bytes": (self.max_message_bytes, 1024, (1 << 31) - 1),
            "max_picture_pixels": (self.max_picture_pixels, 1, 1 << 31),
            "thread_count": (self.thread_count, 0, 1024),
            "grace_period_s": (self.grace_period_s, 0, 3600),
            "drain_timeout_s": (self.drain_timeout_s, 0, 3600),
        }
        for name, (value, low, high) in ranges.items():
            if not low <= value <= high:
                raise StartupError(f"expected {name} from {low} to {high}, got {value}")
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise StartupError("expected tls_certificate and tls_key together, got one of them")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise StartupError("expected tls_certificate and tls_key with tls_client_ca")
        for name in ("tls_certificate", "tls_key", "tls_client_ca"):
            file: Path | None = getattr(self, name)
            if file is not None and not file.is_file():
                raise StartupError(f"expected {name} to be a PEM file, found none at {file}")
