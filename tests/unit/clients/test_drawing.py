"""The picture of feature maps: its parts, pixel by pixel where that is what counts."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from unit.clients.fake_classifier import LABELS, MODEL

from convscope_client import (
    Classification,
    ClassifyResult,
    ClassScore,
    FeatureMap,
    InvalidRequest,
    Timings,
    draw_feature_maps,
)
from convscope_client.drawing.bars import draw_labelled_bars, draw_units
from convscope_client.drawing.colormap import colorize, colormap
from convscope_client.drawing.ink import ACCENT, PAPER, Ink, shortened, text_width
from convscope_client.drawing.network_input import network_input
from convscope_client.drawing.section import Style, draw_section
from convscope_client.drawing.tiles import draw_tiles, fit_grid
from convscope_client.messages import model as to_model

MODEL_OF_SERVER = to_model(MODEL)
STYLE = Style(width=1288, colors=colormap("viridis"), max_tiles=64)


def pixels(image: Image.Image) -> npt.NDArray[np.uint8]:
    return np.asarray(image.convert("RGB"))


def ink_in(image: Image.Image) -> int:
    """How many pixels are not paper."""
    return int((pixels(image) != PAPER).any(axis=2).sum())


class TestColormap:
    # From matplotlib 3.11: colormaps["viridis"](index, bytes=True).
    @pytest.mark.parametrize(
        ("index", "color"),
        [
            (0, (68, 1, 84)),
            (37, (69, 50, 127)),
            (64, (58, 82, 139)),
            (97, (43, 115, 142)),
            (128, (32, 144, 140)),
            (192, (94, 201, 97)),
            (233, (197, 223, 33)),
            (255, (253, 231, 36)),
        ],
    )
    def test_viridis_is_that_of_matplotlib(self, index: int, color: tuple[int, ...]) -> None:
        assert np.abs(colormap("viridis")[index].astype(int) - color).max() <= 5

    def test_gray_is_a_straight_line(self) -> None:
        np.testing.assert_array_equal(colormap("gray"), np.arange(256)[:, None].repeat(3, 1))

    def test_values_get_the_color_of_their_place(self) -> None:
        values = np.array([[-5.0, 0.0, 5.0, 10.0, 99.0]], np.float32)

        gray = colorize(values, 0.0, 10.0, colormap("gray"))

        assert gray.shape == (1, 5, 3)
        assert gray[0, :, 0].tolist() == [0, 0, 128, 255, 255]

    def test_what_is_no_number_gets_an_end(self) -> None:
        values = np.array([np.nan, -np.inf, np.inf], np.float32)

        assert colorize(values, 0.0, 1.0, colormap("gray"))[:, 0].tolist() == [0, 0, 255]

    def test_equal_values_get_the_first_color(self) -> None:
        assert not colorize(np.full(3, 7, np.float32), 7.0, 7.0, colormap("gray")).any()


class TestInk:
    def test_text_ends_where_it_says(self) -> None:
        image = Image.new("RGB", (300, 60), PAPER)

        end = Ink(image).text(10, 40, "32\u00d732\u00d712", 26)

        columns = np.flatnonzero((pixels(image) != PAPER).any(axis=(0, 2)))
        assert 10 <= columns[0] < 14
        assert end - 4 <= columns[-1] <= end
        assert end == pytest.approx(10 + text_width("32\u00d732\u00d712", 26))

    def test_text_is_aligned(self) -> None:
        width = text_width("HH", 80)
        image = Image.new("RGB", (300, 180), PAPER)
        ink = Ink(image)

        ink.text(20, 58, "HH", 80)
        ink.text(20 + width / 2, 118, "HH", 80, align="center")
        ink.text(20 + width, 178, "HH", 80, align="right")

        left, center, right = pixels(image).reshape(3, 60, 300, 3)
        assert (left != PAPER).any()
        np.testing.assert_array_equal(left, center)
        np.testing.assert_array_equal(left, right)

    def test_a_multiplication_sign_is_drawn(self) -> None:
        image = Image.new("RGB", (60, 60), PAPER)

        Ink(image).text(10, 40, "\u00d7", 40)

        cross = pixels(image)[:, :, 0] < 128
        rows, columns = np.nonzero(cross)
        assert len(rows) > 20
        # The same from all four sides.
        box = cross[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        np.testing.assert_array_equal(box, box.T)

    @pytest.mark.parametrize("text", ["", "short", "\u00e9tiquette \u2603", "a label " * 30])
    def test_text_is_cut_to_a_width(self, text: str) -> None:
        cut = shortened(text, 20, 200)

        assert text_width(cut, 20) <= 200
        assert cut == text or (cut.endswith("...") and text.startswith(cut[:-3]))


class TestNetworkInput:
    def test_a_picture_covers_the_input_and_its_centre_is_cut_out(self) -> None:
        picture = np.zeros((32, 96, 3), np.uint8)
        picture[:, 32:64] = 250  # the middle third

        seen = network_input(Image.fromarray(picture), 32, 32)

        assert seen.size == (32, 32)
        assert (pixels(seen) == 250).all()

    def test_transparency_becomes_white(self) -> None:
        seen = network_input(Image.new("RGBA", (8, 8), (0, 0, 0, 0)), 4, 4)

        assert (pixels(seen) == 255).all()

    def test_the_orientation_is_applied(self) -> None:
        picture = Image.fromarray(np.array([[[255] * 3, [0] * 3]], np.uint8).repeat(2, 0))
        picture.getexif()[0x0112] = 3  # upside down

        assert pixels(network_input(picture, 2, 2))[0, :, 0].tolist() == [0, 255]

    def test_sixteen_bits_keep_their_brightness(self) -> None:
        picture = Image.fromarray(np.full((4, 4), 128 * 257, np.uint16))

        assert (pixels(network_input(picture, 4, 4)) == 128).all()


class TestTiles:
    @pytest.mark.parametrize("count", [1, 2, 3, 10, 12, 16, 20, 32, 64, 100])
    @pytest.mark.parametrize(
        "size", [(1, 2), (7, 7), (16, 16), (28, 14), (32, 32), (96, 96), (224, 224), (512, 512)]
    )
    def test_every_grid_fits_its_page(self, count: int, size: tuple[int, int]) -> None:
        height, width = size

        grid = fit_grid(count, height, width, 1288)

        assert grid.columns <= count
        assert round((grid.columns - 1) * grid.pitch) + grid.tile[0] <= 1288
        assert grid.pitch >= grid.tile[0]
        assert grid.rows(count) * grid.columns >= count
        assert grid.enlarge == 1 or grid.reduce == 1
        if grid.reduce == 1:
            assert grid.tile == (width * grid.enlarge, height * grid.enlarge)

    def test_twelve_channels_stand_in_one_row(self) -> None:
        grid = fit_grid(12, 32, 32, 1288)

        assert (grid.columns, grid.enlarge) == (12, 3)

    def test_activations_become_squares_of_one_color(self) -> None:
        maps = np.arange(8, dtype=np.float32).reshape(2, 2, 2)
        grid = fit_grid(2, 2, 2, 1288)

        image = draw_tiles(maps, ["0", "1"], grid, (0, 7), colormap("gray"), 1288)

        side = grid.enlarge
        assert side > 50
        second = pixels(image)[-2 * side :, round(grid.pitch) : round(grid.pitch) + 2 * side, 0]
        for row, column in np.ndindex(2, 2):
            square = second[row * side : (row + 1) * side, column * side : (column + 1) * side]
            assert (square == round(maps[1, row, column] / 7 * 255)).all()

    def test_large_maps_are_reduced_by_their_mean(self) -> None:
        checkers = (np.indices((1, 512, 512)).sum(axis=0) % 2).astype(np.float32)
        grid = fit_grid(64, 512, 512, 1288)

        image = draw_tiles(checkers, ["0"], grid, (0, 1), colormap("gray"), 1288)

        assert grid.reduce > 1
        tile = pixels(image)[-grid.tile[1] : -1, : grid.tile[0] - 1, 0]
        assert tile.min() >= 100
        assert tile.max() <= 155


class TestBars:
    def test_a_bar_is_as_long_as_its_value(self) -> None:
        values = np.array([4.0, 2.0, 0.0], np.float32)

        image = draw_labelled_bars(["a", "b", "c"], values, ["4", "2", "0"], 1000)

        rows = pixels(image)[15::30]
        first = int((rows[0] == ACCENT).all(axis=1).sum())
        second = int((rows[1] == (176, 190, 206)).all(axis=1).sum())
        assert first == pytest.approx(2 * second, abs=2)
        assert not (rows[2] == ACCENT).all(axis=1).any()

    def test_negative_values_go_the_other_way(self) -> None:
        image = draw_labelled_bars(["a", "b"], np.array([-1.0, 1.0], np.float32), ["", ""], 1000)

        left, right = (
            np.flatnonzero((row == color).all(axis=1))
            for row, color in zip(pixels(image)[15::30], ((176, 190, 206), ACCENT), strict=True)
        )
        assert left.max() < right.min()

    @pytest.mark.parametrize("values", [[0.0, 0.0], [np.nan, 1.0], [np.inf, -np.inf], [-3.0, -2.0]])
    def test_odd_values_are_drawn_too(self, values: Sequence[float]) -> None:
        array = np.array(values, np.float32)

        assert draw_labelled_bars(["a", "b"], array, ["x", "y"], 400).size == (400, 60)
        assert draw_units(array, 400).width == 400

    def test_a_bar_for_every_unit(self) -> None:
        values = np.tile(np.array([1.0, -1.0], np.float32), 100)

        image = pixels(draw_units(values, 1288))

        # Upright bars stand apart: up, nothing, down, ...
        up = (image[20] == ACCENT).all(axis=1)
        assert int((np.diff(up.astype(int)) == 1).sum()) + int(up[0]) == 100


class TestSection:
    def test_says_how_many_channels_are_left_out(self) -> None:
        values = np.random.default_rng(0).normal(size=(512, 4, 4)).astype(np.float32)
        names = [str(number) for number in range(512)]

        full = draw_section("conv5_3", [], values[:64], names[:64], [], STYLE)
        cut = draw_section("conv5_3", [], values, names, [], STYLE)

        assert cut.height == full.height + 30
        assert ink_in(cut.crop((0, full.height, 400, cut.height))) > 100

    def test_one_bright_value_does_not_darken_the_rest(self) -> None:
        values = np.linspace(0, 1, 4 * 32 * 32, dtype=np.float32).reshape(4, 32, 32)
        spiked = values.copy()
        spiked[0, 0, 0] = 1e6

        plain, other = (
            pixels(draw_section("relu1", [], array, list("0123"), [], STYLE))[60:]
            for array in (values, spiked)
        )

        assert float((plain != other).any(axis=2).mean()) < 0.05

    def test_a_rare_activation_is_seen(self) -> None:
        values = np.zeros((1, 64, 64), np.float32)
        values[0, 5, 5] = 3.0

        image = pixels(draw_section("relu1", [], values, ["0"], [], STYLE))[60:]

        assert (image == STYLE.colors[255]).all(axis=2).any()

    def test_a_vector_is_drawn_by_label_if_there_is_one_for_each(self) -> None:
        values = np.arange(10, dtype=np.float32)
        channels = [str(number) for number in range(10)]

        labelled = draw_section("fc1", [], values, channels, LABELS, STYLE)
        numbered = draw_section("fc1", [], values, channels, LABELS[:9], STYLE)
        as_volume = draw_section("pool", [], values.reshape(10, 1, 1), channels, LABELS, STYLE)

        assert labelled.height == as_volume.height > numbered.height

    def test_infinities_are_no_trouble(self) -> None:
        values = np.full((3, 8, 8), np.nan, np.float32)
        values[0] = np.inf

        assert ink_in(draw_section("x", [], values, list("012"), [], STYLE)) > 1000


def result_with(*feature_maps: FeatureMap, top: int = 3) -> ClassifyResult:
    rows = len(feature_maps[0].values) if feature_maps else 1
    best = tuple(ClassScore(index, LABELS[index], 1.0, 0.5 ** (index + 1)) for index in range(top))
    timings = Timings(decode_ns=0, queue_ns=0, compute_ns=0, batch_size=1, batch_count=1)
    classes = (Classification(best),) * rows if top else ()
    return ClassifyResult("tiny", "3", "", classes, None, None, feature_maps, timings)


def conv(rows: int = 1) -> FeatureMap:
    values = np.random.default_rng(1).normal(size=(rows, 2, 32, 32)).astype(np.float32)
    return FeatureMap("conv1", values)


class TestSheet:
    def test_is_a_page_with_all_layers(self) -> None:
        fc = FeatureMap("fc1", np.arange(10, dtype=np.float32)[None])
        one = draw_feature_maps(result_with(conv()), model=MODEL_OF_SERVER)
        two = draw_feature_maps(result_with(conv(), fc), model=MODEL_OF_SERVER)

        assert one.mode == two.mode == "RGB"
        assert one.width == two.width == 1400
        assert two.height == one.height + 44 + 344  # a gap, a title, ten bars

    def test_shows_the_input_pixel_by_pixel(self) -> None:
        seen = np.random.default_rng(2).integers(0, 256, (32, 32, 3), np.uint8)

        page = draw_feature_maps(
            result_with(conv()), picture=Image.fromarray(seen), model=MODEL_OF_SERVER
        )

        # Each pixel eight times as large, in the margin's corner below two titles.
        enlarged = pixels(page)[222 : 222 + 256, 56 : 56 + 256]
        np.testing.assert_array_equal(enlarged[4::8, 4::8], seen)

    def test_draws_the_image_that_is_asked_for(self) -> None:
        result = result_with(conv(rows=2))

        first, second = (draw_feature_maps(result, image_index=index) for index in (0, 1))
        alone = result_with(FeatureMap("conv1", result.feature_maps[0].values[1:]))

        assert first.tobytes() != second.tobytes()
        assert second.tobytes() == draw_feature_maps(alone).tobytes()

    def test_classes_are_named_at_the_end_of_the_network_only(self) -> None:
        hidden = dataclasses.replace(MODEL_OF_SERVER.layers[2], name="hidden")
        layers = (hidden, *MODEL_OF_SERVER.layers)
        model = dataclasses.replace(MODEL_OF_SERVER, layers=layers)
        values = np.arange(10, dtype=np.float32)[None]
        as_bars, as_units = (
            draw_feature_maps(result_with(FeatureMap(name, values)), model=model).height
            for name in ("fc1", "hidden")
        )

        assert as_bars > as_units

    def test_chosen_classes_keep_their_names(self) -> None:
        values = np.array([[3.0, 1.0]], np.float32)
        pages = [
            draw_feature_maps(
                result_with(FeatureMap("fc1", values, np.array([channels]))), model=MODEL_OF_SERVER
            ).tobytes()
            for channels in ([8, 2], [8, 3])
        ]

        assert pages[0] != pages[1]

    def test_uint8_looks_like_float32(self) -> None:
        values = np.random.default_rng(3).integers(0, 256, (1, 2, 32, 32), np.uint8)
        scale, offset = np.array([0.5], np.float32), np.array([-60], np.float32)
        small = FeatureMap("conv1", values, None, scale, offset)
        large = FeatureMap("conv1", small.activations())

        pages = [draw_feature_maps(result_with(feature_map)) for feature_map in (small, large)]

        assert pages[0].tobytes() == pages[1].tobytes()

    @pytest.mark.parametrize("has_picture", [True, False])
    @pytest.mark.parametrize("has_model", [True, False])
    @pytest.mark.parametrize("top", [0, 3])
    def test_everything_but_the_maps_may_be_missing(
        self, has_picture: bool, has_model: bool, top: int
    ) -> None:
        page = draw_feature_maps(
            result_with(conv(), top=top),
            picture=Image.new("RGB", (50, 40)) if has_picture else None,
            model=MODEL_OF_SERVER if has_model else None,
            colors="gray",
        )

        assert page.width == 1400

    def test_without_maps_there_is_nothing_to_draw(self) -> None:
        with pytest.raises(InvalidRequest, match="expected a result with feature maps, got none"):
            draw_feature_maps(result_with())

    @pytest.mark.parametrize("index", [-1, 2])
    def test_an_image_that_is_not_there_is_refused(self, index: int) -> None:
        with pytest.raises(InvalidRequest, match=f"image_index from 0 to 1, got {index}"):
            draw_feature_maps(result_with(conv(rows=2)), image_index=index)

    @pytest.mark.parametrize(
        "feature_map",
        [
            FeatureMap("a/very/long/name" * 9, np.ones((1, 3, 5, 9), np.float32)),
            FeatureMap("chosen", np.ones((1, 2, 4, 4), np.float32), np.array([[9, 4]])),
            FeatureMap("reduced", np.ones((1, 1, 4, 4), np.float16)),
            FeatureMap("thousand", np.ones((1, 1000), np.float32)),
            FeatureMap("four thousand", np.ones((1, 4096), np.float32)),
        ],
    )
    def test_any_map_can_be_drawn(self, feature_map: FeatureMap) -> None:
        assert ink_in(draw_feature_maps(result_with(feature_map))) > 1000
