"""The Dockerfile's image, built with buildah: no daemon, no registry, but root and a base image."""

import json
import os
import re
import shutil
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.servers import ServerProcess

from convscope_client import Client

ROOT = Path(__file__).parents[2]
# In buildah's storage, with Python 3.11 or newer and a pip that reaches an index.
BASE = os.environ.get("CONVSCOPE_TEST_PYTHON_IMAGE", "")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not shutil.which("buildah"), reason="needs Debian's package buildah"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: buildah's chroot isolation"),
    pytest.mark.skipif(not BASE, reason="needs an image's name in CONVSCOPE_TEST_PYTHON_IMAGE"),
]


def buildah(*arguments: str | Path, status: int = 0) -> str:
    process = subprocess.run(["buildah", *arguments], capture_output=True, text=True)
    assert process.returncode == status, process.stdout + process.stderr
    return process.stdout.strip()


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    name = f"localhost/convscope-test-{os.getpid()}"
    # OCI's format knows no HEALTHCHECK.
    options = ("--isolation", "chroot", "--format", "docker", "--build-arg", f"PYTHON_IMAGE={BASE}")
    buildah("bud", *options, "-t", name, ROOT)
    yield name
    buildah("rmi", name)


@pytest.fixture(scope="module")
def settings(image: str) -> dict[str, Any]:
    settings: dict[str, Any] = json.loads(buildah("inspect", "--type", "image", image))
    settings = settings["Docker"]["config"]
    return settings


@pytest.fixture(scope="module")
def container(image: str) -> Iterator[str]:
    name = buildah("from", image)
    yield name
    buildah("rm", name)


def command(container: str, *words: str, **environment: str) -> list[str]:
    variables = [f"--env={name}={value}" for name, value in environment.items()]
    return ["run", "--isolation", "chroot", *variables, container, "--", *words]


def test_the_image_says_how_it_is_run(settings: dict[str, Any]) -> None:
    assert (settings["Entrypoint"], settings["Cmd"]) == (["convscope"], ["serve"])
    assert set(settings["ExposedPorts"]) == {"8001/tcp", "8002/tcp"}
    assert settings["User"] == "10001:10001"
    assert settings["StopSignal"] == "SIGTERM"
    assert settings["Healthcheck"]["Test"][0] == "CMD-SHELL"


def test_it_holds_what_serves_and_no_more(container: str) -> None:
    names = ("convscope_server", "onnxruntime", "torch", "onnxscript", "pytest", "hatchling", "pip")
    script = f"import importlib.util as u; print([n for n in {names} if u.find_spec(n)])"
    found = buildah(*command(container, "python", "-c", script))
    assert found == "['convscope_server', 'onnxruntime']"
    script = "from convscope_server.config import shipped_models as m; print(m())"
    assert "/site-packages/" in buildah(*command(container, "python", "-c", script))
    buildah(*command(container, "sh", "-c", "! command -v gcc && ! test -e /src"))
    owner = "id -un; id -gn; touch /opt/convscope/x 2>/dev/null || echo read-only"
    said = buildah(*command(container, "sh", "-c", owner)).split()
    assert said == ["convscope", "convscope", "read-only"]


def test_it_serves_as_nobody_and_ends_on_sigterm(container: str, settings: dict[str, Any]) -> None:
    """The image's command behind a shell that tells its process and then becomes it."""
    words = ("sh", "-c", 'echo $$; exec "$@"', "sh", *settings["Entrypoint"], *settings["Cmd"])
    ports = {"CONVSCOPE_PORT": "0", "CONVSCOPE_METRICS_PORT": "0"}
    run = ["buildah", *command(container, *words, **ports, CONVSCOPE_GRACE_PERIOD_S="0")]
    pipe = subprocess.PIPE
    with subprocess.Popen(run, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        try:
            server = ServerProcess(process)
            server.wait_until_ready()
            host, port = server.address.split(":")
            assert host == "0.0.0.0"  # noqa: S104
            status = Path(f"/proc/{pid}/status").read_text()
            assert re.findall(r"(?:Uid|Gid):\t(\d+)", status) == ["10001", "10001"]

            # Only who listens on all addresses is reached by this one.
            with Client(f"127.0.0.2:{port}") as client:
                result = client.classify(ROOT / "samples" / "horse.jpg")
            assert result.classifications[0].top[0].label == "horse"
            ready = server.http.replace(host, "127.0.0.2") + "/readyz"
            with urllib.request.urlopen(ready, timeout=10) as answer:  # noqa: S310
                assert answer.status == 200

            health = ("/bin/sh", "-c", settings["Healthcheck"]["Test"][1])
            assert buildah(*command(container, *health, CONVSCOPE_PORT=port)) == "SERVING"
            buildah(*command(container, *health, CONVSCOPE_PORT="1"), status=3)

            os.kill(pid, signal.SIGTERM)
            assert server.wait_until_ended() == 0
            assert "stopped" in server.log[-1]
        finally:
            if process.poll() is None:
                os.kill(pid, signal.SIGKILL)
