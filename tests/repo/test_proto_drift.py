"""The committed wire code says what proto/convscope says."""

import re
import tomllib
from pathlib import Path

from google.protobuf import descriptor_pb2
from grpc_tools import protoc

from convscope_proto.v1 import classifier_pb2, classifier_pb2_grpc

ROOT = Path(__file__).parents[2]
PROTO = ROOT / "proto"


def compiled(source: Path, tmp_path: Path) -> descriptor_pb2.FileDescriptorProto:
    """The descriptor of a .proto file, by whatever protoc is installed."""
    out = tmp_path / "descriptors"
    status = protoc.main(
        [
            "protoc",
            f"-Iconvscope_proto/v1={source.parent}",
            f"--descriptor_set_out={out}",
            f"convscope_proto/v1/{source.name}",
        ]
    )
    assert status == 0
    (file,) = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file
    for message in file.message_type:
        for field in (*message.field, *(f for n in message.nested_type for f in n.field)):
            field.ClearField("json_name")  # protoc fills it in, the runtime does not
    return file


def committed() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto()
    classifier_pb2.DESCRIPTOR.CopyToProto(file)
    return file


def test_the_generated_code_is_up_to_date(tmp_path: Path) -> None:
    source = PROTO / "convscope" / "v1" / "classifier.proto"
    assert compiled(source, tmp_path) == committed(), "run `make proto` and commit the result"


def test_a_change_would_be_seen(tmp_path: Path) -> None:
    source = PROTO / "convscope" / "v1" / "classifier.proto"
    changed = tmp_path / "classifier.proto"
    changed.write_text(source.read_text().replace("string id = 3;", "string id = 33;", 1))
    assert compiled(changed, tmp_path) != committed()


def test_the_floors_of_pyproject_are_those_of_the_generated_code() -> None:
    """A client with the oldest grpcio and protobuf that we allow can import the stubs."""
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    floors = dict(re.findall(r"([a-z]+)>=([\d.]+)", " ".join(dependencies)))
    assert floors["grpcio"] == classifier_pb2_grpc.GRPC_GENERATED_VERSION
    header = Path(classifier_pb2.__file__).read_text()
    (version,) = re.findall(r"# Protobuf Python Version: ([\d.]+)", header)
    assert floors["protobuf"] == version
