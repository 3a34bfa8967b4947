"""Results: what they offer beside their fields."""

import numpy as np
import pytest

from convscope_client import (
    Classification,
    ClassifyResult,
    ClassScore,
    FeatureMap,
    InvalidRequest,
    Timings,
    Volume,
)


def result(*feature_maps: FeatureMap) -> ClassifyResult:
    timings = Timings(decode_ns=0, queue_ns=0, compute_ns=0, batch_size=1, batch_count=1)
    return ClassifyResult("tiny", "1", "", (), None, None, feature_maps, timings)


def test_a_feature_map_is_found_by_its_layer() -> None:
    conv, pool = (FeatureMap(name, np.zeros((1, 1, 2, 2))) for name in ("conv1", "pool1"))

    assert result(conv, pool).feature_map("pool1") is pool
    with pytest.raises(InvalidRequest, match="asked for: conv1, pool1, got 'fc1'"):
        result(conv, pool).feature_map("fc1")
    with pytest.raises(InvalidRequest, match="asked for: none, got 'fc1'"):
        result().feature_map("fc1")


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_activations_are_the_values_as_float32(dtype: str) -> None:
    values = np.array([[1.5, -2.0]], dtype)

    np.testing.assert_array_equal(
        FeatureMap("fc1", values).activations(), values.astype(np.float32), strict=True
    )


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4, 5)])
def test_uint8_is_scaled_back_image_by_image(shape: tuple[int, ...]) -> None:
    values = np.full(shape, 100, np.uint8)
    scale, offset = np.array([0.5, 2.0], np.float32), np.array([-1.0, 0.0], np.float32)

    activations = FeatureMap("conv1", values, None, scale, offset).activations()

    np.testing.assert_array_equal(activations[0], np.full(shape[1:], 49, np.float32), strict=True)
    np.testing.assert_array_equal(activations[1], np.full(shape[1:], 200, np.float32), strict=True)


def test_a_label_needs_a_class() -> None:
    assert Classification((ClassScore(3, "cat", 1.0, 0.5),)).label == "cat"
    with pytest.raises(InvalidRequest, match="expected top_k >= 1"):
        _ = Classification(()).label


def test_a_volume_is_written_width_height_depth() -> None:
    assert str(Volume(depth=12, height=32, width=16)) == "16\u00d732\u00d712"
    assert Volume(depth=12, height=32, width=16).activation_count == 6_144
