"""convscope features: what every layer makes of a picture, as a page or as arrays."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from convscope_client.cli.failure import Failure, reported
from convscope_client.cli.options import (
    SETTINGS,
    address_option,
    model_option,
    model_version_option,
    timeout_option,
)
from convscope_client.exit_codes import ExitCode

if TYPE_CHECKING:
    from convscope_client.models import Model
    from convscope_client.results import ClassifyResult

_NAME = "{name}"
# More sections make a page that nobody scrolls through.
_MOST_LAYERS = 8


@click.command(context_settings=SETTINGS)
@click.argument("pictures", nargs=-1, required=True, metavar="PICTURE...")
@click.option(
    "--layers",
    default="",
    metavar="NAMES",
    help='Layer names or patterns such as "conv*", with commas between, or all.'
    f"  [default: all; if there are more than {_MOST_LAYERS}, that many from first to last]",
    show_default=False,
)
@click.option(
    "-o",
    "--output",
    default=f"{_NAME}.maps.png",
    metavar="FILE",
    help="Where to write: .png for a page, .npz for arrays by layer name. "
    f"{_NAME} stands for the picture's name.",
)
@model_option
@model_version_option
@address_option
@timeout_option(30.0)
@click.pass_context
def features(
    context: click.Context,
    pictures: Sequence[str],
    layers: str,
    output: str,
    model: str,
    model_version: str,
    address: str,
    timeout_s: float,
) -> None:
    """Show what every layer of the network makes of each PICTURE.

    Writes one file for each: a page with the picture as the network saw it, the most
    probable classes, and every channel of every layer; or arrays, float32,
    (1, C, H, W) or (1, C), for numpy.load().
    """
    paths = _output_paths(pictures, output)

    from convscope_client.client import Client
    from convscope_client.errors import InvalidRequest, LimitExceeded
    from convscope_client.images import read_images

    refused = 0
    with reported(), Client(address) as client:
        described = client.describe(model, model_version, timeout_s=timeout_s)
        wanted = _named(layers, described) or _chosen(described)
        for picture, path in zip(pictures, paths, strict=True):
            try:
                # Read once: what is drawn is what was sent.
                content = bytes(read_images(picture)[0])
                result = client.classify(
                    content,
                    features=wanted,
                    # By name, so that a new version does not come between the two calls.
                    model=described.name,
                    version=described.version,
                    timeout_s=timeout_s,
                )
            except (InvalidRequest, LimitExceeded) as error:
                refused += 1
                click.echo(f"Error: {picture}: {error}", err=True)
                continue
            _write(path, content, Path(picture).name, result, described)
            drawn = ", ".join(feature_map.layer for feature_map in result.feature_maps)
            best = result.classifications[0].top[0]
            click.echo(f"{path}: {best.label} {best.probability:.1%}; {drawn}")
    if not layers and wanted != ["all"]:
        left_out = f"{len(wanted)} of {len(described.layers)} layers"
        click.echo(f"{left_out}: for all of them, --layers all", err=True)
    if refused:
        context.exit(ExitCode.REJECTED)


def _output_paths(pictures: Sequence[str], output: str) -> list[Path]:
    """Where each picture's file goes; every mistake is found before anything is sent."""
    if Path(output).suffix.lower() not in (".png", ".npz"):
        raise click.UsageError(f"expected an output that ends in .png or .npz, got {output}")
    paths = [Path(output.replace(_NAME, Path(picture).stem)) for picture in pictures]
    if len(set(paths)) != len(paths):
        raise click.UsageError(
            f"expected a file for each of {len(paths)} pictures, got one name twice from {output}: "
            f"write {_NAME} into it, and give pictures of different names"
        )
    for path in paths:
        if not path.parent.is_dir():
            raise Failure(f"expected a directory, got {path.parent}", ExitCode.REJECTED)
        if path.is_dir():
            raise Failure(f"expected a file to write, got the directory {path}", ExitCode.REJECTED)
        for picture in pictures:
            if path.exists() and Path(picture).exists() and path.samefile(picture):
                raise Failure(
                    f"expected another file to write than the picture {picture}", ExitCode.REJECTED
                )
    return paths


def _named(layers: str, model: "Model") -> list[str]:
    """The names and patterns with commas between them; one layer's name may hold commas itself."""
    if any(layer.name == layers for layer in model.layers):
        return [layers]
    names = [name.strip() for name in layers.split(",")]
    if layers and not any(names):
        raise click.UsageError(f"expected layer names with commas between them, got {layers!r}")
    return [name for name in names if name]


def _chosen(model: "Model") -> list[str]:
    """All layers, or if they are many, so many evenly spread from the first to the last."""
    names = [layer.name for layer in model.layers]
    if len(names) <= _MOST_LAYERS:
        return ["all"]
    last = len(names) - 1
    return [names[round(i * last / (_MOST_LAYERS - 1))] for i in range(_MOST_LAYERS)]


def _write(path: Path, content: bytes, name: str, result: "ClassifyResult", model: "Model") -> None:
    from convscope_client.atomic_file import write_atomically

    def write(file: BinaryIO) -> None:
        if path.suffix.lower() == ".npz":
            _write_arrays(file, result)
        else:
            _write_page(file, content, name, result, model)

    try:
        write_atomically(path, write)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        message = f"expected to write {path}, could not: {reason}"
        raise Failure(message, ExitCode.REJECTED) from error


def _write_arrays(file: BinaryIO, result: "ClassifyResult") -> None:
    import zipfile

    import numpy as np

    # numpy.savez() takes names as keyword arguments: a layer called "file" would break it.
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for feature_map in result.feature_maps:
            with archive.open(f"{feature_map.layer}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, feature_map.values, allow_pickle=False)


def _write_page(
    file: BinaryIO, content: bytes, name: str, result: "ClassifyResult", model: "Model"
) -> None:
    from io import BytesIO

    from PIL import Image

    from convscope_client.drawing import draw_feature_maps

    try:
        picture = Image.open(BytesIO(content))
        picture.load()
    except Exception:  # a kind that this machine's Pillow lacks; the server's did not
        picture = None
    page = draw_feature_maps(result, picture=picture, title=name, model=model)
    page.save(file, "PNG", optimize=True)
