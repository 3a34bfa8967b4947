"""The committed wire code says what the .proto files say."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FileDescriptor
from grpc_tools import protoc

from convscope_proto.inference import grpc_service_pb2, model_config_pb2
from convscope_proto.v1 import classifier_pb2, classifier_pb2_grpc

ROOT = Path(__file__).parents[2]
PROTO = ROOT / "proto"


FILES = {
    # protoc's include folder, the file's name in the descriptor pool, the generated code
    "classifier": (
        "convscope_proto/v1=convscope/v1",
        "convscope_proto/v1/classifier.proto",
        classifier_pb2.DESCRIPTOR,
    ),
    "grpc_service": ("inference", "grpc_service.proto", grpc_service_pb2.DESCRIPTOR),
    "model_config": ("inference", "model_config.proto", model_config_pb2.DESCRIPTOR),
}


def compiled(include: str, name: str, tmp_path: Path) -> descriptor_pb2.FileDescriptorProto:
    """The descriptor of a .proto file, by whatever protoc is installed."""
    out = tmp_path / "descriptors"
    assert protoc.main(["protoc", f"-I{include}", f"--descriptor_set_out={out}", name]) == 0
    (file,) = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file
    for message in file.message_type:
        clear_json_names(message)
    return file


def clear_json_names(message: descriptor_pb2.DescriptorProto) -> None:
    """protoc fills them in, the runtime does not."""
    for field in message.field:
        field.ClearField("json_name")
    for nested in message.nested_type:
        clear_json_names(nested)


def committed(descriptor: FileDescriptor) -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto()
    descriptor.CopyToProto(file)
    return file


@pytest.mark.parametrize("file", FILES)
def test_the_generated_code_is_up_to_date(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    include, name, descriptor = FILES[file]
    monkeypatch.chdir(PROTO)
    found = compiled(include, name, tmp_path)
    assert found == committed(descriptor), "run `make proto` and commit the result"


def test_a_change_would_be_seen(tmp_path: Path) -> None:
    source = PROTO / "convscope" / "v1" / "classifier.proto"
    changed = tmp_path / "classifier.proto"
    changed.write_text(source.read_text().replace("string id = 3;", "string id = 33;", 1))
    _, name, descriptor = FILES["classifier"]
    found = compiled(f"convscope_proto/v1={tmp_path}", name, tmp_path)
    assert found != committed(descriptor)


@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_the_open_inference_descriptors_are_those_of_tritonclient(first: str) -> None:
    """Identical, or one process could not import both (github.com/kserve/kserve/issues/3099)."""
    imports = [
        "from convscope_proto.inference import grpc_service_pb2 as ours",
        "from tritonclient.grpc import service_pb2 as theirs",
    ]
    if first == "theirs":
        imports.reverse()
    code = "; ".join((*imports, "assert ours.DESCRIPTOR is theirs.DESCRIPTOR"))
    # Where protobuf is newer than tritonclient's generated code, it warns.
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=60)


def test_the_floors_of_pyproject_are_those_of_the_generated_code() -> None:
    """A client with the oldest grpcio and protobuf that we allow can import the stubs."""
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    floors = dict(re.findall(r"([a-z]+)>=([\d.]+)", " ".join(dependencies)))
    assert floors["grpcio"] == classifier_pb2_grpc.GRPC_GENERATED_VERSION
    header = Path(classifier_pb2.__file__).read_text()
    (version,) = re.findall(r"# Protobuf Python Version: ([\d.]+)", header)
    assert floors["protobuf"] == version
