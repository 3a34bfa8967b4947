"""The page: a picture, what the network makes of it, and every layer on the way."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from convscope_client.drawing.bars import draw_labelled_bars
from convscope_client.drawing.colormap import ColormapName, colormap
from convscope_client.drawing.ink import MUTED, PAPER, Ink, shortened
from convscope_client.drawing.network_input import network_input
from convscope_client.drawing.section import TITLE_HEIGHT, Style, draw_section, draw_title
from convscope_client.errors import InvalidRequest
from convscope_client.models import Layer, Model, Volume
from convscope_client.results import ClassifyResult, FeatureMap

_WIDTH = 1400
_MARGIN = 56
_SECTION_GAP = 44
_TITLE_SIZE = 36
_NOTE_SIZE = 19
_INPUT_SIDE = 256
_CLASSES_LEFT = 344
_SEPARATOR = "  ·  "


def draw_feature_maps(
    result: ClassifyResult,
    *,
    picture: Image.Image | None = None,
    title: str = "",
    model: Model | None = None,
    image_index: int = 0,
    colors: ColormapName = "viridis",
    max_tiles: int = 64,
) -> Image.Image:
    """All feature maps of a result for one of its images, as an RGB picture 1400 pixels wide.

    Every layer has one colour scale over all its channels. It starts at 0 unless
    a value is negative, and clips 0.5 % of the values at either end. Its ends stand
    beside the colour bar, and beside them the layer's minimum and maximum.

    Args:
        result: Of classify(..., features=...).
        picture: The image that was classified; drawn as the network saw it. Needs model.
        title: The picture's name.
        model: Of describe(); brings notation, volumes and class labels.
        image_index: Which of the result's images, from 0.
        colors: "viridis" or "gray".
        max_tiles: Most channels drawn of a layer; the page says how many are left out.

    Raises:
        InvalidRequest: The result has no feature maps, or not so many images.
    """
    if not result.feature_maps:
        raise InvalidRequest("expected a result with feature maps, got none: ask for features=...")
    image_count = len(result.feature_maps[0].values)
    if not 0 <= image_index < image_count:
        raise InvalidRequest(
            f"expected an image_index from 0 to {image_count - 1}, got {image_index}"
        )
    style = Style(_WIDTH - 2 * _MARGIN, colormap(colors), max_tiles)
    layers = {layer.name: layer for layer in model.layers} if model else {}
    class_layers = _class_layers(model) if model else set()
    seen = _input(picture, model)
    classes_width = style.width - (_CLASSES_LEFT if seen else 0)
    classes = _classes(result, image_index, len(model.labels) if model else 0, classes_width)
    blocks = [
        _heading(result, title, model, style.width),
        *_beside(seen, classes, style.width),
        *(
            _section(
                feature_map,
                layers.get(feature_map.layer),
                model.labels if model and feature_map.layer in class_layers else (),
                image_index,
                style,
            )
            for feature_map in result.feature_maps
        ),
        _footing(style.width),
    ]
    return _stack(blocks)


def _class_layers(model: Model) -> set[str]:
    """The layers at the end of the network with one activation for each class."""
    names = set()
    for layer in reversed(model.layers):
        volume = layer.volume
        if not volume.activation_count == volume.depth == len(model.labels):
            break
        names.add(layer.name)
    return names


def _section(
    feature_map: FeatureMap,
    layer: Layer | None,
    labels: Sequence[str],
    image_index: int,
    style: Style,
) -> Image.Image:
    values = feature_map.activations()[image_index]
    depth, height, width = (*values.shape, 1, 1)[:3]
    volume = layer.volume if layer else Volume(depth, height, width)
    notes = [note for note in (layer.notation if layer else "", str(volume)) if note]
    if feature_map.channels is None and depth != volume.depth:
        return draw_section(feature_map.layer, notes, values, ["all channels in one"], (), style)
    numbers = range(depth) if feature_map.channels is None else feature_map.channels[image_index]
    channels = [str(number) for number in numbers]
    labels = [labels[number] for number in numbers] if labels else ()
    return draw_section(feature_map.layer, notes, values, channels, labels, style)


def _heading(result: ClassifyResult, title: str, model: Model | None, width: int) -> Image.Image:
    image = Image.new("RGB", (width, 78), PAPER)
    ink = Ink(image)
    ink.text(0, 34, shortened(title or "Feature maps", _TITLE_SIZE, width), _TITLE_SIZE)
    facts = [f"{result.model_name} {result.model_version}".strip()]
    if model:
        facts.append(model.architecture or model.description)
    line = _SEPARATOR.join(fact for fact in facts if fact)
    ink.text(0, 68, shortened(line, _NOTE_SIZE, width), _NOTE_SIZE, MUTED)
    return image


def _beside(left: Image.Image | None, right: Image.Image | None, width: int) -> list[Image.Image]:
    parts = [(0, left), (_CLASSES_LEFT if left else 0, right)]
    height = max((part.height for _, part in parts if part), default=0)
    if not height:
        return []
    image = Image.new("RGB", (width, height), PAPER)
    for x, part in parts:
        if part:
            image.paste(part, (x, 0))
    return [image]


def _input(picture: Image.Image | None, model: Model | None) -> Image.Image | None:
    """The picture as the network saw it, large enough to see its pixels."""
    if picture is None or model is None:
        return None
    shape = model.input
    seen = network_input(picture, shape.height, shape.width, shape.channels)
    if max(seen.size) > _INPUT_SIDE:
        seen = seen.reduce(-(-max(seen.size) // _INPUT_SIDE))
    else:
        factor = _INPUT_SIDE // max(seen.size)
        size = (seen.width * factor, seen.height * factor)
        seen = seen.resize(size, Image.Resampling.NEAREST)
    image = Image.new("RGB", (_CLASSES_LEFT, TITLE_HEIGHT + seen.height), PAPER)
    draw_title(Ink(image), "input", [str(Volume(shape.channels, shape.height, shape.width))])
    image.paste(seen, (0, TITLE_HEIGHT))
    return image


def _classes(
    result: ClassifyResult, image_index: int, class_count: int, width: int
) -> Image.Image | None:
    """The most probable classes as bars."""
    top = result.classifications[image_index].top if result.classifications else ()
    if not top:
        return None
    bars = draw_labelled_bars(
        [entry.label for entry in top],
        np.array([entry.probability for entry in top], np.float32),
        [f"{entry.probability:.1%}" for entry in top],
        width,
        full_scale=1.0,
        row_height=max(30, min(48, _INPUT_SIDE // len(top))),
    )
    image = Image.new("RGB", (width, TITLE_HEIGHT + bars.height), PAPER)
    rank = f"most probable of {class_count} classes" if class_count else "most probable class"
    draw_title(Ink(image), top[0].label, [rank])
    image.paste(bars, (0, TITLE_HEIGHT))
    return image


def _footing(width: int) -> Image.Image:
    image = Image.new("RGB", (width, 24), PAPER)
    text = (
        "One colour scale for all channels of a layer: it starts at 0 unless a value is negative, "
        "and clips 0.5% of the values at either end. Above the tiles: the channels, from 0."
    )
    Ink(image).text(0, 18, text, 16, MUTED)
    return image


def _stack(blocks: Sequence[Image.Image]) -> Image.Image:
    height = sum(block.height for block in blocks) + _SECTION_GAP * (len(blocks) - 1)
    page = Image.new("RGB", (_WIDTH, height + 2 * _MARGIN), PAPER)
    y = _MARGIN
    for block in blocks:
        page.paste(block, (_MARGIN, y))
        y += block.height + _SECTION_GAP
    return page
