"""The models that are measured, in a folder that `convscope serve` takes."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from servers import arguments_of

from convscope_server.config import shipped_models

SIDE = 32
# Where the models do not ship: networks of their size, whose weights are random. By
# number of multiply-adds: cifar10 45 million, airbench94 (Jordan, "94% on CIFAR-10 in 3.29
# Seconds on a Single GPU", arXiv:2404.00498) 118 million.
NOTATION = {
    "cifar10": (
        "INPUT(32x32x3) -> [CONV(32, 3x3) -> RELU]*2 -> POOL(max, 2x2) -> "
        "[CONV(64, 3x3) -> RELU]*2 -> POOL(max, 2x2) -> [CONV(128, 3x3) -> RELU]*2 -> "
        "POOL(max, 2x2) -> CONV(320, 3x3) -> RELU -> POOL(max, 2x2) -> FC(10)"
    ),
    "airbench94": (
        "INPUT(32x32x3) -> CONV(24, 3x3) -> RELU -> CONV(64, 3x3) -> RELU -> POOL(max, 2x2) -> "
        "CONV(64, 3x3) -> RELU -> CONV(224, 3x3) -> RELU -> POOL(max, 2x2) -> "
        "[CONV(224, 3x3) -> RELU]*2 -> POOL(max, 2x2) -> CONV(96, 3x3) -> RELU -> "
        "POOL(max, 2x2) -> FC(10)"
    ),
}
NAMES = ("simple", *NOTATION)


@dataclass(frozen=True, slots=True)
class Network:
    """One model.

    Attributes:
        name: What it is served as.
        path: Its file.
        origin: Where it comes from, for the reader of a table.
    """

    name: str
    path: Path
    origin: str


def collect(names: list[str], folder: Path) -> list[Network]:
    """Copy shipped models to the folder, and export what does not ship."""
    networks = []
    for name in names:
        path = folder / name / "1" / "model.onnx"
        shipped = shipped_models() / name
        if shipped.is_dir():
            shutil.copytree(shipped, folder / name)
            path = next((folder / name).glob("*/model.onnx"))
            origin = "shipped"
        else:
            command = arguments_of("convscope export")
            subprocess.run(  # noqa: S603
                [*command, NOTATION[name], "--name", name, "--output", str(path)],
                check=True,
                capture_output=True,
            )
            origin = f"random weights, `{NOTATION[name]}`"
        networks.append(Network(name, path, origin))
    return networks
