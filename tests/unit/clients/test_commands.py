"""The commands against a server on a real wire: what they print, write, and exit with."""

import json
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from unit.clients.fake_classifier import FakeClassifier, values_for

from convscope_client.cli.classify import classify
from convscope_client.cli.describe import describe
from convscope_client.cli.evaluate import evaluate
from convscope_client.cli.features import features
from convscope_client.cli.health import health
from convscope_client.exit_codes import ExitCode
from convscope_proto.v1 import classifier_pb2 as pb

COMMANDS = {command.name: command for command in (classify, features, describe, evaluate, health)}
PROJECT = Path(__file__).parents[3] / "pyproject.toml"
UNLOADED = pb.Model(
    name="m", version="2", state=pb.MODEL_STATE_UNAVAILABLE, state_reason="expected a model"
)
RECORD = np.dtype([("label", "u1"), ("planes", "u1", (3, 32, 32))])


def run(command: click.Command, *args: str | Path) -> Result:
    result = CliRunner().invoke(command, [str(arg) for arg in args])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A test split of which the fake server gets all but the automobiles right."""
    records = np.zeros(10_000, RECORD)
    records["label"] = np.arange(10_000) % 10
    red = np.where(records["label"] == 1, 20, records["label"] * 10)
    records["planes"][:, 0] = red[:, None, None]
    (tmp_path / "test_batch.bin").write_bytes(records.tobytes())
    return tmp_path


@pytest.mark.usefixtures("address")
class TestClassify:
    def test_shows_each_picture_with_its_classes(self, pictures: list[Path]) -> None:
        result = run(classify, *pictures, "--top-k", "2")

        assert result.exit_code == 0
        assert result.stderr == ""
        names = [line for line in result.output.splitlines() if line.endswith(".png")]
        assert names == [str(picture) for picture in pictures]
        rows = [line.split() for line in result.output.splitlines() if "%" in line]
        assert [(row[0], row[-1]) for row in rows] == [
            ("bird", "50.0%"),
            ("cat", "25.0%"),
            ("dog", "50.0%"),
            ("frog", "25.0%"),
            ("ship", "50.0%"),
            ("truck", "25.0%"),
        ]
        # A bar of half the width, another of a quarter.
        assert rows[0][1].count("\u2588") == 2 * rows[1][1].count("\u2588") > 0

    @pytest.mark.parametrize("columns", [60, 80, 120])
    def test_keeps_to_the_width(
        self, columns: int, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.chdir(pictures[0].parent)

        lines = run(classify, *(picture.name for picture in pictures)).output.splitlines()

        assert max(map(len, lines)) <= columns
        assert all(line == line.rstrip() for line in lines)

    def test_prints_json_lines(self, pictures: list[Path]) -> None:
        result = run(classify, "--json", "--top-k", "1", *pictures)

        lines = [json.loads(line) for line in result.output.splitlines()]
        assert [line["label"] for line in lines] == ["bird", "dog", "ship"]
        assert lines[0] == {
            "picture": str(pictures[0]),
            "model": "tiny",
            "version": "3",
            "label": "bird",
            "top": [{"index": 2, "label": "bird", "score": 10.0, "probability": 0.5}],
            "timings": {
                "decode_ns": 1,
                "queue_ns": 2,
                "compute_ns": 3,
                "batch_size": 4,
                "batch_count": 5,
            },
        }

    def test_keeps_the_order_of_many(self, pictures: list[Path]) -> None:
        result = run(classify, "--json", *(pictures * 40))

        labels = [json.loads(line)["label"] for line in result.output.splitlines()]
        assert labels == ["bird", "dog", "ship"] * 40

    def test_names_what_it_cannot_read_and_goes_on(self, pictures: list[Path]) -> None:
        broken = pictures[0].with_name("broken.jpg")
        broken.write_bytes(b"no picture")

        result = run(classify, pictures[0], broken, "nowhere.jpg", pictures[2], "--json")

        assert result.exit_code == ExitCode.REJECTED
        assert result.stderr.splitlines() == [
            f"Error: {broken}: picture 0: not a picture",
            "Error: nowhere.jpg: expected a readable picture file, got nowhere.jpg: "
            "no such file or directory",
        ]
        lines = [json.loads(line) for line in result.stdout.splitlines()]
        assert [line.get("label") for line in lines] == ["bird", None, None, "ship"]
        assert lines[1]["error"] == "picture 0: not a picture"

    def test_stops_at_what_concerns_all(self, pictures: list[Path]) -> None:
        result = run(classify, *pictures, "--model", "fail-NOT_FOUND")

        assert result.exit_code == ExitCode.REJECTED
        assert result.stderr == "Error: the server's own words for NOT_FOUND\n"

    def test_sends_model_and_version(self, pictures: list[Path], fake: FakeClassifier) -> None:
        run(classify, pictures[0], "--model", "tiny", "--model-version", "3")

        assert (fake.requests[0].model_name, fake.requests[0].model_version) == ("tiny", "3")


@pytest.mark.usefixtures("address")
class TestFeatures:
    @pytest.fixture(autouse=True)
    def _in_an_empty_directory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "out").mkdir()
        monkeypatch.chdir(tmp_path / "out")

    def test_writes_a_page_for_each_picture(self, pictures: list[Path]) -> None:
        result = run(features, *pictures)

        assert result.exit_code == 0
        names = sorted(path.name for path in Path().iterdir())
        assert names == ["bird.maps.png", "dog.maps.png", "ship.maps.png"]
        with Image.open("bird.maps.png") as page:
            assert page.width == 1400
        assert result.output.splitlines()[0] == "bird.maps.png: bird 50.0%; conv1, pool1, fc1"

    def test_asks_for_the_layers_named(self, pictures: list[Path], fake: FakeClassifier) -> None:
        run(features, pictures[0], "--layers", "pool1,fc1", "-o", "maps.png")

        (request,) = fake.requests
        assert list(request.feature_maps[0].layers) == ["pool1", "fc1"]
        assert (request.model_name, request.model_version) == ("tiny", "3")

    def test_chooses_some_of_many_layers(self, pictures: list[Path], fake: FakeClassifier) -> None:
        fake.model = pb.Model()
        fake.model.CopyFrom(FakeClassifier().model)
        del fake.model.layers[:]
        fake.model.layers.extend(pb.Layer(name=f"conv{number}") for number in range(40))

        result = run(features, pictures[0])

        asked = [int(name[4:]) for name in fake.requests[0].feature_maps[0].layers]
        assert len(asked) == 8
        assert (asked[0], asked[-1]) == (0, 39)
        assert np.ptp(np.diff(asked)) <= 1
        # The fake server has maps for none of these.
        assert result.exit_code == ExitCode.REJECTED

    def test_writes_arrays(self, pictures: list[Path]) -> None:
        run(features, pictures[0], "-o", "maps.npz")

        with np.load("maps.npz", allow_pickle=False) as arrays:
            assert list(arrays) == ["conv1", "pool1", "fc1"]
            for layer in arrays:
                np.testing.assert_array_equal(arrays[layer], values_for(layer, 1), strict=True)

    @pytest.mark.parametrize(
        ("args", "status", "message"),
        [
            (["-o", "maps.gif"], 2, "expected an output that ends in .png or .npz, got maps.gif"),
            (["-o", "no/maps.png"], 1, "expected a directory, got no"),
            (["--layers", "conv9", "-o", "maps.png"], 1, "unknown layer 'conv9'"),
            (["--model", "nobody", "-o", "maps.png"], 1, "unknown model 'nobody'"),
        ],
    )
    def test_says_what_is_not_right_and_writes_nothing(
        self, pictures: list[Path], args: list[str], status: int, message: str
    ) -> None:
        result = run(features, pictures[0], *args)

        assert result.exit_code == status
        assert message in result.stderr
        assert not list(Path().iterdir())

    def test_two_pictures_do_not_share_a_file(self, pictures: list[Path]) -> None:
        result = run(features, *pictures, "-o", "maps.png")

        assert result.exit_code == ExitCode.USAGE
        assert "expected a file for each of 3 pictures" in result.stderr

    def test_a_picture_that_cannot_be_read_spoils_no_other(self, pictures: list[Path]) -> None:
        result = run(features, "nowhere.jpg", pictures[0])

        assert result.exit_code == ExitCode.REJECTED
        assert result.stderr.startswith("Error: nowhere.jpg: expected a readable picture file")
        assert [path.name for path in Path().iterdir()] == ["bird.maps.png"]

    def test_a_directory_is_not_overwritten(self, pictures: list[Path]) -> None:
        Path("maps.png").mkdir()

        result = run(features, pictures[0], "-o", "maps.png")

        assert result.exit_code == ExitCode.REJECTED
        assert "got the directory maps.png" in result.stderr


@pytest.mark.usefixtures("address")
class TestDescribe:
    def test_draws_the_table(self) -> None:
        result = run(describe)

        assert result.exit_code == 0
        rows = {line.split()[0]: line for line in result.output.splitlines() if line.strip()}
        volume = "32\u00d732\u00d72"
        assert rows["conv1"].split() == [
            *("conv1", "CONV(2,", "3x3)", volume, "54", "2", "55,296", "8", "KiB")
        ]
        assert rows["total"].split() == ["total", "5,174", "12", "60,416", "10", "KiB"]
        assert "25.00%, top-1 by a single forward pass, on nothing, test split" in result.output
        assert "CPUExecutionProvider, up to 64 images at once" in result.output

    @pytest.mark.parametrize("columns", [80, 120])
    def test_keeps_to_the_width_with_a_large_network(
        self, columns: int, fake: FakeClassifier, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", str(columns))
        fake.model = pb.Model(
            name="vgg16",
            multiply_add_count=15_346_630_656,
            layers=[
                pb.Layer(
                    name="conv1_1",
                    volume=pb.Volume(depth=64, height=224, width=224),
                    weight_count=102_760_448,
                    bias_count=4_096,
                    multiply_add_count=1_849_688_064,
                    notation="CONV(512, 3x3)",
                )
            ],
        )

        lines = run(describe).output.splitlines()

        assert max(map(len, lines)) <= columns
        assert any("15,346,630,656" in line for line in lines)
        assert any("CONV(512, 3x3)" in line and "1,849,688,064" in line for line in lines)

    def test_stays_readable_with_five_hundred_layers_of_long_names(
        self, fake: FakeClassifier, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", "80")
        names = [f"/backbone/features/features.{i}/conv/conv.0/Conv_output_0" for i in range(500)]
        fake.model = pb.Model(
            name="deep",
            layers=[
                pb.Layer(name=name, kind="Conv", volume=pb.Volume(depth=8, height=9, width=9))
                for name in names
            ],
        )

        lines = run(describe).output.splitlines()

        assert max(map(len, lines)) <= 80
        assert len(lines) < 120
        assert any("452 more: --all shows them" in line for line in lines)
        assert not any("weights" in line for line in lines)
        everything = run(describe, "--all").output.splitlines()
        # A name that is longer than its column goes on in the next line.
        shown = "".join(line.split()[0] for line in everything if line.strip())
        assert all(name in shown for name in names)

    def test_prints_everything_as_json(self) -> None:
        described = json.loads(run(describe, "tiny", "--json").output)

        assert described["layers"][0]["volume"] == {"depth": 2, "height": 32, "width": 32}
        assert described["accuracy"] == 0.25
        assert described["metadata"] == {"convscope.name": '"tiny"'}

    @pytest.mark.parametrize("name", ["input", "INPUTS", "convnet-2"])
    def test_a_name_that_resembles_notation_is_asked_of_the_server(self, name: str) -> None:
        result = run(describe, name)

        assert result.exit_code == ExitCode.REJECTED
        assert result.stderr == f"Error: unknown model '{name}'\n"

    def test_of_a_model_that_is_not_loaded_it_says_why(self, fake: FakeClassifier) -> None:
        fake.model = UNLOADED

        assert run(describe).output == "m 2  UNAVAILABLE: expected a model\n"

    def test_an_unknown_model_is_one_line(self) -> None:
        result = run(describe, "nobody")

        assert result.exit_code == ExitCode.REJECTED
        assert result.stderr == "Error: unknown model 'nobody'\n"


class TestDescribeNotation:
    """Without a server; the table itself is tested where it is made."""

    NOTATION = "INPUT(32x32x3) -> CONV(12, 3x3) -> RELU -> POOL(max, 2x2) -> FC(10)"

    @pytest.fixture(autouse=True)
    def registered(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Look functions up in the project file: the installed metadata may be older."""
        group = tomllib.loads(PROJECT.read_text())["project"]["entry-points"]["convscope.describe"]
        monkeypatch.setattr(
            "convscope_client.cli.describe.entry_points",
            lambda *, group, name, found=group: [EntryPoint(name, found[name], group)],
        )

    def test_shows_layers_and_heads(self) -> None:
        result = run(describe, self.NOTATION)

        assert result.exit_code == 0
        assert result.stderr == ""
        rows = {
            line.split()[0]: line.split() for line in result.output.splitlines() if line.strip()
        }
        assert rows["conv1"] == [
            *("conv1", "3×3", "1", "1", "32×32×12", "324", "12", "331,776", "48", "KiB")
        ]
        assert rows["POOL(average,"][-3:] == ["instead", "130", "120"]

    def test_prints_json(self) -> None:
        described = json.loads(run(describe, self.NOTATION, "--json").output)

        assert described["notation"] == self.NOTATION
        assert described["total"]["parameters"] == 31_066

    def test_a_preset_is_told_apart_from_a_model(self) -> None:
        described = json.loads(run(describe, "--preset", "vgg16", "--json").output)

        assert described["preset"] == "vgg16"
        assert described["layers"][-4]["name"] == "relu_fc1"

    def test_what_is_wrong_is_shown_with_its_place(self) -> None:
        result = run(describe, "INPUT(32x32x3) -> FC(0)")

        assert result.exit_code == ExitCode.REJECTED
        assert result.stderr == (
            "Error: FC(0): outputs must be at least 1, not 0\n"
            "  INPUT(32x32x3) -> FC(0)\n"
            "                    ^^^^^\n"
        )

    def test_an_unknown_preset_and_two_subjects_are_refused(self) -> None:
        unknown = run(describe, "--preset", "nothing")
        assert unknown.exit_code == ExitCode.REJECTED
        known = "simple, stack, stack-28, vgg16, cifar10"
        assert f"expected a preset, {known}, got nothing" in unknown.stderr
        both = run(describe, "tiny", "--preset", "simple")
        assert both.exit_code == ExitCode.USAGE
        assert "expected MODEL or --preset, got both: tiny, simple" in both.stderr


@pytest.mark.usefixtures("address")
class TestEvaluate:
    def test_measures_overall_and_by_class(self, data: Path, fake: FakeClassifier) -> None:
        result = run(evaluate, "--data", data, "--json", "--batch-size", "1024")

        assert result.exit_code == 0
        measured = json.loads(result.output)
        assert (measured["model"], measured["version"]) == ("tiny", "3")
        assert (measured["images"], measured["correct"], measured["accuracy"]) == (
            10_000,
            9_000,
            0.9,
        )
        assert measured["accuracy_by_class"]["automobile"] == 0
        assert measured["accuracy_by_class"]["truck"] == 1
        assert len(measured["sha256"]) == 64
        assert sorted(request.pixels.shape[0] for request in fake.requests) == [784] + [1024] * 9

    def test_shows_bars(self, data: Path) -> None:
        result = run(evaluate, "--data", data, "--batch-size", "1024")

        assert "accuracy 90.00%  9,000 of 10,000 images" in result.output
        (truck,) = (line for line in result.output.splitlines() if "truck" in line)
        assert truck.endswith("100.0%")
        assert result.stderr == ""

    def test_takes_the_directory_from_the_environment(
        self, data: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CONVSCOPE_DATA", str(data))

        assert run(evaluate, "--batch-size", "5000").exit_code == 0

    def test_says_where_the_data_is_missing(self, tmp_path: Path) -> None:
        result = run(evaluate, "--data", tmp_path)

        assert result.exit_code == ExitCode.REJECTED
        assert "Error: expected test_batch.bin of CIFAR-10's binary version in" in result.stderr

    def test_refuses_a_model_that_is_not_loaded(self, data: Path, fake: FakeClassifier) -> None:
        fake.model = UNLOADED
        result = run(evaluate, "--data", data)

        assert result.exit_code == ExitCode.REJECTED
        assert result.stderr == (
            "Error: expected a model that is loaded, got m 2: UNAVAILABLE, expected a model\n"
        )

    def test_refuses_a_model_of_another_size(self, data: Path, fake: FakeClassifier) -> None:
        fake.model = pb.Model(name="big", input=pb.ImageInput(height=224, width=224), labels=["a"])

        result = run(evaluate, "--data", data)

        assert result.exit_code == ExitCode.REJECTED
        assert "got big: 224 x 224, 0 channels and 1 classes" in result.stderr
        assert not fake.requests

    def test_a_server_that_fails_ends_it(self, data: Path, fake: FakeClassifier) -> None:
        fake.model = pb.Model()
        fake.model.CopyFrom(FakeClassifier().model)
        fake.model.name = "fail-INTERNAL"

        result = run(evaluate, "--data", data)

        assert result.exit_code == ExitCode.SERVER_ERROR
        assert "the server's own words for INTERNAL" in result.stderr


@pytest.mark.usefixtures("address")
class TestHealth:
    def test_serving_is_zero(self) -> None:
        result = run(health)

        assert (result.exit_code, result.output) == (0, "SERVING\n")
        assert run(health, "tiny").exit_code == 0

    @pytest.mark.parametrize(("status", "name"), [(0, "UNKNOWN"), (2, "NOT_SERVING")])
    def test_all_else_is_three(self, fake: FakeClassifier, status: int, name: str) -> None:
        fake.health = status

        result = run(health)

        assert result.exit_code == ExitCode.UNAVAILABLE
        assert f"got {name}" in result.stderr

    def test_an_unknown_model_is_three(self) -> None:
        assert run(health, "nobody").exit_code == ExitCode.UNAVAILABLE

    def test_no_server_is_three(self) -> None:
        result = run(health, "--address", "127.0.0.1:9")

        assert result.exit_code == ExitCode.UNAVAILABLE
        assert "is it running?" in result.stderr


def test_the_command_line_wins_over_the_environment(
    address: str, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONVSCOPE_ADDRESS", "127.0.0.1:9")
    monkeypatch.setenv("CONVSCOPE_TOP_K", "1")

    assert run(classify, pictures[0]).exit_code == ExitCode.UNAVAILABLE
    result = run(classify, pictures[0], "--address", address)
    assert result.output.count("%") == 1


@pytest.mark.parametrize("name", COMMANDS)
def test_the_default_address_is_that_of_the_clients(name: str) -> None:
    from convscope_client.channels import DEFAULT_ADDRESS

    (option,) = (param for param in COMMANDS[name].params if param.name == "address")
    assert option.default == DEFAULT_ADDRESS


@pytest.mark.parametrize(
    ("model", "status"),
    [
        ("fail-INVALID_ARGUMENT", ExitCode.REJECTED),
        ("fail-UNAVAILABLE", ExitCode.UNAVAILABLE),
        ("overloaded", ExitCode.UNAVAILABLE),
        ("fail-DEADLINE_EXCEEDED", ExitCode.DEADLINE),
        ("fail-INTERNAL", ExitCode.SERVER_ERROR),
    ],
)
def test_the_installed_command_exits_as_documented(
    address: str, pictures: list[Path], model: str, status: ExitCode
) -> None:
    program = "from convscope_client.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "classify", pictures[0], "--model", model],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == status
    assert done.stderr.startswith("Error: ")
    assert len(done.stderr.splitlines()) == 1
