import json
import re
from pathlib import Path

import onnx
import pytest
from support.tiny_cifar import Recorder, tiny_data

from convscope_export import run
from convscope_export.metadata import KEYS, MetadataError, attach, describe, read
from convscope_export.presets import SIMPLE

CONTRACT = Path(__file__).parents[3] / "docs" / "model-file.md"


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    directory = tmp_path_factory.mktemp("run")
    run.train(SIMPLE, tiny_data(), directory, Recorder(), seed=3, epochs=1)
    record, network = run.load(directory)
    return describe(network, record)


def empty_model() -> onnx.ModelProto:
    return onnx.helper.make_model(onnx.helper.make_graph([], "empty", [], []))


def test_keys_are_those_of_the_contract() -> None:
    rows = re.findall(r"^\| `convscope\.(\w+)`", CONTRACT.read_text(), flags=re.MULTILINE)
    assert list(KEYS) == rows


def test_describes_a_run(described: dict[str, object]) -> None:
    assert set(described) == set(KEYS) - {"verification"}
    assert described["name"] == "simple"
    assert described["seed"] == 3
    assert described["architecture"] == str(SIMPLE.architecture)
    assert described["quantization"] is None
    assert described["input"] == {
        **{"name": "images", "height": 32, "width": 32, "channels": 3, "dtype": "uint8"},
        **{"layout": "NHWC", "color": "RGB", "range": [0, 255]},
    }
    layers = described["layers"]
    assert isinstance(layers, list)
    assert [layer["tensor"] for layer in layers] == ["conv1", "relu1", "pool1", "scores"]
    assert layers[2] == {
        **{"name": "pool1", "kind": "POOL", "tensor": "pool1", "notation": "POOL(max, 2x2)"},
        "volume": {"depth": 12, "height": 16, "width": 16},
        **{"weights": 0, "biases": 0, "multiply_adds": 0},
    }
    accuracy = described["accuracy"]
    assert isinstance(accuracy, dict)
    assert accuracy["data"] == "CIFAR-10 layout, unrecognised pixels, test split"
    assert accuracy["method"] == "single forward"


def test_comes_back_from_the_file_as_it_was(described: dict[str, object]) -> None:
    model = empty_model()
    metadata = {**described, "verification": {"größer": [1, 2.5, None]}}
    attach(model, {"name": "replaced"})
    attach(model, metadata)
    assert read(model) == json.loads(json.dumps(metadata))
    assert len(model.metadata_props) == len(KEYS)


def test_what_is_missing_damaged_or_of_another_format_is_an_error(
    described: dict[str, object],
) -> None:
    model = empty_model()
    attach(model, described)
    with pytest.raises(MetadataError, match=r"convscope\.verification is missing \(16 of 17 keys"):
        read(model)
    attach(model, {**described, "verification": {}, "format": 2})
    with pytest.raises(MetadataError, match=r"expected convscope\.format 1, got 2"):
        read(model)
    onnx.helper.set_model_props(model, {"convscope.labels": "{not json"})
    with pytest.raises(MetadataError, match=r"convscope\.labels: expected JSON, got '\{not json'"):
        read(model)


def test_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        attach(empty_model(), {"accuracy": float("nan")})
