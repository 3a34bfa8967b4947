"""ModelInfer as the protocol's messages say it: decoding rules, feature maps, bad input."""

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnxruntime
import pytest
from PIL import Image
from support import open_inference
from support.foreign_models import residual
from support.servers import TRANSPORTS, RunningServer, running_server
from support.tiny_models import activations, random_images, write_repository

from convscope_proto.inference import grpc_service_pb2 as pb

Input = pb.ModelInferRequest.InferInputTensor
Wanted = pb.ModelInferRequest.InferRequestedOutputTensor
Parameter = pb.InferParameter


@pytest.fixture(scope="module", params=TRANSPORTS)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    models = write_repository(tmp_path_factory.mktemp("models"))
    with running_server(models, request.param, max_message_bytes=1 << 20) as server:
        yield server


@pytest.fixture(scope="module")
def channel(server: RunningServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address) as channel:
        yield channel


def images_input(images: Any = None, **fields: Any) -> Input:
    shape = (1, 4, 4, 3) if images is None else images.shape
    return Input(**{"name": "images", "datatype": "UINT8", "shape": shape, **fields})


IMAGES = random_images(2)
RAW = IMAGES.tobytes()
SCORES = activations(IMAGES)["scores"]


def request(**fields: Any) -> pb.ModelInferRequest:
    """A good request, some fields replaced."""
    good = {"inputs": [images_input(IMAGES)], "raw_input_contents": [RAW]}
    return pb.ModelInferRequest(model_name="tiny", **{**good, **fields})


def array(response: pb.ModelInferResponse, index: int) -> Any:
    dtypes = {"FP32": np.float32, "FP16": np.float16, "UINT8": np.uint8}
    output = response.outputs[index]
    values = np.frombuffer(response.raw_output_contents[index], dtypes[output.datatype])
    return values.reshape(tuple(output.shape))


def test_typed_contents_are_as_good_as_raw_ones(channel: grpc.Channel) -> None:
    contents = pb.InferTensorContents(uint_contents=IMAGES.ravel().tolist())
    typed = request(inputs=[images_input(IMAGES, contents=contents)], raw_input_contents=[])
    np.testing.assert_array_equal(array(open_inference.infer(channel, typed), 0), SCORES)


def test_every_output_has_its_raw_contents_in_the_order_asked_for(channel: grpc.Channel) -> None:
    names = ["relu1", "probabilities", "fc1", "scores"]
    response = open_inference.infer(channel, request(outputs=[Wanted(name=n) for n in names]))
    assert [output.name for output in response.outputs] == names
    assert len(response.raw_output_contents) == len(names)
    expected = activations(IMAGES)
    for index, name in enumerate(names):
        np.testing.assert_allclose(array(response, index), expected[name], rtol=1e-5, atol=1e-30)
    assert not response.parameters


def test_feature_maps_come_in_every_form(channel: grpc.Channel) -> None:
    wanted = [
        Wanted(name="conv1", parameters={"channels": Parameter(string_param="1")}),
        Wanted(name="pool1", parameters={"reduction": Parameter(string_param="mean")}),
        Wanted(
            name="relu1",
            parameters={
                "datatype": Parameter(string_param="UINT8"),
                "most_active": Parameter(int64_param=1),
            },
        ),
    ]
    response = open_inference.infer(channel, request(outputs=wanted))
    expected = activations(IMAGES)
    np.testing.assert_array_equal(array(response, 0), expected["conv1"][:, [1]])
    assert response.outputs[0].parameters["channels"].string_param == "1;1"
    np.testing.assert_allclose(array(response, 1), expected["pool1"].mean(axis=1, keepdims=True))
    told = response.outputs[2].parameters
    channels = [int(row) for row in told["channels"].string_param.split(";")]
    assert channels == expected["relu1"].mean(axis=(2, 3)).argmax(axis=1).tolist()
    scale, offset = (
        np.array([float(value) for value in told[name].string_param.split(";")])
        for name in ("scale", "offset")
    )
    back = offset[:, None, None] + scale[:, None, None] * array(response, 2)[:, 0]
    active = expected["relu1"][np.arange(2), channels]
    np.testing.assert_allclose(back, active, atol=0.51 * scale.max())


def test_what_other_clients_send_with_outputs_is_ignored(channel: grpc.Channel) -> None:
    parameters = {
        "binary_data": Parameter(bool_param=True),
        "content_type": Parameter(string_param="np"),
    }
    wanted = [Wanted(name="scores", parameters=parameters)]
    response = open_inference.infer(channel, request(outputs=wanted))
    np.testing.assert_array_equal(array(response, 0), SCORES)


def test_timings_come_when_asked_for(channel: grpc.Channel) -> None:
    parameters = {"timings": Parameter(bool_param=True)}
    told = open_inference.infer(channel, request(parameters=parameters)).parameters
    assert told["batch_size"].int64_param >= 2
    assert told["batch_count"].int64_param == 1
    assert told["compute_ns"].int64_param > 0
    assert told["queue_ns"].int64_param > 0


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_float_model_takes_its_own_input_or_pictures(transport: str, tmp_path: Path) -> None:
    model = residual()
    images = np.random.default_rng(0).normal(size=(3, 3, 8, 8)).astype(np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (logits,) = session.run(None, {"input": images})
    own = Input(name="input", datatype="FP32", shape=images.shape)
    picture = BytesIO()
    Image.new("RGB", (9, 9)).save(picture, "PNG")
    file = Input(name="input", datatype="BYTES", shape=(1,))
    with (
        running_server(write_repository(tmp_path, "foreign", "1", model), transport) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        floats = pb.ModelInferRequest(
            model_name="foreign",
            inputs=[own],
            outputs=[Wanted(name="logits"), Wanted(name="scores")],
            raw_input_contents=[images.tobytes()],
        )
        response = open_inference.infer(channel, floats)
        for index in range(2):
            np.testing.assert_allclose(array(response, index), logits, rtol=1e-4, atol=1e-5)
        pictures = pb.ModelInferRequest(
            model_name="foreign", inputs=[file], raw_input_contents=[element(picture.getvalue())]
        )
        pixels = np.zeros((1, 3, 8, 8), np.float32)
        (expected,) = session.run(None, {"input": pixels})
        found = array(open_inference.infer(channel, pictures), 0)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        floats.raw_input_contents[0] = np.full_like(images, np.nan).tobytes()
        with pytest.raises(grpc.RpcError, match="expected finite numbers, got 576"):
            open_inference.infer(channel, floats)


def element(data: bytes, length: int | None = None) -> bytes:
    return (len(data) if length is None else length).to_bytes(4, "little") + data


def shared(offset: int = 0, **others: Any) -> dict[str, Any]:
    return {
        "shared_memory_region": Parameter(string_param="nowhere"),
        "shared_memory_byte_size": Parameter(int64_param=96),
        "shared_memory_offset": Parameter(int64_param=offset),
        **others,
    }


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"inputs": []}, "expected 1 input, images, got 0"),
        ({"inputs": [images_input()] * 2}, "expected 1 input, images, got 2"),
        (
            {"inputs": [images_input(IMAGES, name="image")]},
            "unexpected inference input 'image': expected images",
        ),
        ({"raw_input_contents": []}, "unable to find data for input tensor 'images'"),
        ({"raw_input_contents": [RAW, RAW]}, "expected 1 raw_input_contents, got 2"),
        ({"raw_input_contents": [RAW[:-1]]}, "expected 96 for UINT8 (2, 4, 4, 3), got 95"),
        ({"raw_input_contents": [RAW + b"x"]}, "got 97"),
        ({"raw_input_contents": [b""]}, "got 0"),
        (
            {"inputs": [images_input(IMAGES, contents=pb.InferTensorContents())]},
            "contents field must not be specified when using raw_input_contents",
        ),
        (
            {
                "inputs": [images_input(contents=pb.InferTensorContents(fp32_contents=[0.0] * 48))],
                "raw_input_contents": [],
            },
            "expected uint_contents for UINT8, got fp32_contents",
        ),
        (
            {
                "inputs": [images_input(contents=pb.InferTensorContents(uint_contents=[1]))],
                "raw_input_contents": [],
            },
            "expected 48 elements in uint_contents for shape (1, 4, 4, 3), got 1",
        ),
        (
            {
                "inputs": [images_input(contents=pb.InferTensorContents(uint_contents=[256] * 48))],
                "raw_input_contents": [],
            },
            "expected elements in the range of UINT8, got 256 to 256",
        ),
        (
            {
                "inputs": [images_input(datatype="FP16", contents=pb.InferTensorContents())],
                "raw_input_contents": [],
            },
            "got float16 (1, 4, 4, 3)",
        ),
        (
            {
                "inputs": [
                    images_input(
                        shape=(1, 999), contents=pb.InferTensorContents(uint_contents=[1] * 999)
                    )
                ],
                "raw_input_contents": [],
            },
            "shape (N, 4, 4, 3), got uint8 (1, 999)",
        ),
        ({"inputs": [images_input(IMAGES, datatype="UINT9")]}, "got 'UINT9'"),
        ({"inputs": [images_input(IMAGES, datatype="INT8")]}, "got int8 (2, 4, 4, 3)"),
        ({"inputs": [images_input(IMAGES, shape=(2, 48))]}, "got uint8 (2, 48)"),
        ({"inputs": [images_input(IMAGES, shape=())]}, "1 to 8 dimensions, got 0"),
        ({"inputs": [images_input(IMAGES, shape=(1,) * 9)]}, "1 to 8 dimensions, got 9"),
        ({"inputs": [images_input(IMAGES, shape=(0, 4, 4, 3))]}, "at least 1 in every dimension"),
        ({"inputs": [images_input(IMAGES, shape=(-1, 4, 4, 3))]}, "at least 1 in every dimension"),
        (
            {"inputs": [images_input(IMAGES, shape=(1 << 62, 4, 4, 3))]},
            "expected at most 4096 images",
        ),
        (
            {"inputs": [images_input(IMAGES, shape=(2, 1 << 62, 4, 3))]},
            "input byte size mismatch",
        ),
        (
            {"inputs": [images_input(IMAGES, datatype="BYTES")]},
            "expected shape (N) or (N, 1) of BYTES",
        ),
        (
            {"inputs": [images_input(shape=(2,), datatype="BYTES")]},
            "element 0 of BYTES says that it has",
        ),
        (
            {
                "inputs": [images_input(shape=(2,), datatype="BYTES")],
                "raw_input_contents": [element(b"ab", 3) + element(b"")],
            },
            "element 1 of BYTES",
        ),
        (
            {
                "inputs": [images_input(shape=(1,), datatype="BYTES")],
                "raw_input_contents": [element(b"ab") + b"x"],
            },
            "got 1 more",
        ),
        (
            {
                "inputs": [images_input(shape=(4000,), datatype="BYTES")],
                "raw_input_contents": [b"\0\0\0\0"],
            },
            "expected 4000 elements of BYTES",
        ),
        (
            {
                "inputs": [images_input(shape=(1,), datatype="BYTES")],
                "raw_input_contents": [element(b"no picture")],
            },
            "expected a JPEG, PNG, WebP, GIF or BMP file, got 10 bytes",
        ),
        ({"inputs": [images_input(IMAGES, parameters=shared())]}, "expected 0 raw_input_contents"),
        (
            {
                "inputs": [
                    images_input(
                        IMAGES, parameters=shared(shared_memory_offset=Parameter(string_param="x"))
                    )
                ],
                "raw_input_contents": [],
            },
            "parameter 'shared_memory_offset': expected a whole number, got string_param",
        ),
        (
            {"parameters": {"triton_x": Parameter(bool_param=True)}},
            "names that begin with triton_ are reserved",
        ),
        ({"parameters": {"priority": Parameter(int64_param=10)}}, "expected a priority from 1"),
        ({"parameters": {"priority": Parameter(string_param="1")}}, "expected a whole number"),
        ({"parameters": {"priority": Parameter()}}, "expected a whole number, got nothing"),
        ({"parameters": {"timeout": Parameter(int64_param=-1)}}, "expected a timeout of at least"),
        ({"parameters": {"timings": Parameter(int64_param=1)}}, "expected true or false"),
        ({"outputs": [Wanted(name="conv*")]}, "unexpected inference output 'conv*': expected"),
        ({"outputs": [Wanted(name="scores")] * 2}, "every requested output once"),
        ({"outputs": [Wanted(name="scores")] * 50_000}, "6 at most, got 50000"),
        (
            {"parameters": {str(number): Parameter(bool_param=True) for number in range(257)}},
            "expected at most 256 parameters, got 257",
        ),
        (
            {"outputs": [Wanted(name="no such")] * 7},
            "every requested output once, 6 at most, got 7",
        ),
        (
            {
                "outputs": [
                    Wanted(name="conv1", parameters={"channels": Parameter(string_param="0,1,x")})
                ]
            },
            "2 at most, got '0,1,x'",
        ),
        (
            {
                "outputs": [
                    Wanted(name="conv1", parameters={"channels": Parameter(string_param="1,1")})
                ]
            },
            "output 'conv1': expected channels such as 0,3,7, each once",
        ),
        (
            {"outputs": [Wanted(name="scores", parameters={"x": Parameter(int64_param=1)})]},
            "expected a parameter of classification, shared_memory_region",
        ),
        (
            {"outputs": [Wanted(name="scores", parameters={"datatype": Parameter()})]},
            "got 'datatype'",
        ),
        (
            {
                "outputs": [
                    Wanted(name="scores", parameters={"classification": Parameter(int64_param=0)})
                ]
            },
            "expected a classification of at least 1",
        ),
        (
            {
                "outputs": [
                    Wanted(name="conv1", parameters={"classification": Parameter(int64_param=1)})
                ]
            },
            "expected classification of scores, probabilities or a fully connected layer",
        ),
        (
            {
                "outputs": [
                    Wanted(name="conv1", parameters={"channels": Parameter(string_param="0,x")})
                ]
            },
            "expected channels such as 0,3,7, each once, 2 at most, got '0,x'",
        ),
        (
            {
                "outputs": [
                    Wanted(name="conv1", parameters={"channels": Parameter(string_param="2")})
                ]
            },
            "layer conv1: expected channels from 0 to 1, got 2",
        ),
        (
            {
                "outputs": [
                    Wanted(name="conv1", parameters={"most_active": Parameter(int64_param=-1)})
                ]
            },
            "expected most_active of at least 1",
        ),
        (
            {
                "outputs": [
                    Wanted(name="conv1", parameters={"datatype": Parameter(string_param="FP64")})
                ]
            },
            "expected a datatype of FP32, FP16, UINT8",
        ),
        (
            {
                "outputs": [
                    Wanted(
                        name="scores",
                        parameters={"shared_memory_region": Parameter(string_param="r")},
                    )
                ]
            },
            "expected shared_memory_byte_size with shared_memory_region",
        ),
        ({"model_version": "0x1"}, "specified version string '0x1'"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(
    channel: grpc.Channel, fields: dict[str, Any], message: str
) -> None:
    bad = request(**fields)
    with pytest.raises(grpc.RpcError) as info:
        open_inference.infer(channel, bad)
    error = info.value
    assert isinstance(error, grpc.Call)
    details = error.details() or ""
    assert (error.code().name, message in details, "\n" in details) == (
        "INVALID_ARGUMENT",
        True,
        False,
    ), details
    good = request(id="good")
    wrong, right = open_inference.stream_infer(channel, [bad, good])
    assert message in wrong.error_message
    assert right.infer_response.id == "good"
    np.testing.assert_array_equal(array(right.infer_response, 0), SCORES)


def test_answers_larger_than_a_message_are_refused_before_they_are_computed(
    channel: grpc.Channel,
) -> None:
    images = random_images(4000)
    large = request(
        inputs=[images_input(images)],
        raw_input_contents=[images.tobytes()],
        outputs=[Wanted(name="conv1"), Wanted(name="relu1")],
    )
    with pytest.raises(grpc.RpcError) as info:
        open_inference.infer(channel, large)
    assert isinstance(info.value, grpc.Call)
    assert info.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "expected an answer of at most 1048576 bytes" in (info.value.details() or "")


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_what_lies_in_shared_memory_counts_as_memory_too(transport: str, tmp_path: Path) -> None:
    images = random_images(2600)
    key = f"/convscope_test_{tmp_path.name}_{transport}"
    path = Path("/dev/shm", key[1:])  # noqa: S108 - where shared memory is
    inside, outside = shared(), shared()
    inside["shared_memory_byte_size"] = Parameter(int64_param=2 << 20)
    outside["shared_memory_byte_size"] = Parameter(int64_param=2600 * 32 * 4)
    # 125 KB of pixels, twice, and activations of 333 KB, in their batches and whole, fit.
    limit_bytes = 1 << 20
    path.write_bytes(element(bytes((2 << 20) - 4)))
    models = write_repository(tmp_path / "models")
    try:
        with (
            running_server(models, transport, max_in_flight_bytes=limit_bytes) as server,
            grpc.insecure_channel(server.address) as channel,
        ):
            open_inference.register(channel, "nowhere", key, 2 << 20)
            fits = request(inputs=[images_input(images)], raw_input_contents=[images.tobytes()])
            assert open_inference.infer(channel, fits).outputs[0].shape == [2600, 3]
            places = request(
                inputs=[images_input(images)],
                raw_input_contents=[images.tobytes()],
                outputs=[Wanted(name="conv1", parameters=outside)],
            )
            reads = request(
                inputs=[images_input(shape=(1,), datatype="BYTES", parameters=inside)],
                raw_input_contents=[],
            )
            for large in (places, reads):
                with pytest.raises(grpc.RpcError, match="at most 1048576 bytes of memory"):
                    open_inference.infer(channel, large)
    finally:
        path.unlink()


def test_the_requests_own_timeout_counts_as_a_deadline(channel: grpc.Channel) -> None:
    late = request(parameters={"timeout": Parameter(int64_param=1)})
    with pytest.raises(grpc.RpcError) as info:
        open_inference.infer(channel, late)
    assert isinstance(info.value, grpc.Call)
    assert info.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_header_does_not_say_where_a_caller_is(channel: grpc.Channel) -> None:
    """Else one from elsewhere could say that it is on the server's machine."""
    call: Any = channel.unary_unary("/inference.GRPCInferenceService/SystemSharedMemoryStatus")
    for header in ("x-forwarded-for", "x-real-ip", "x-envoy-external-address", "forwarded"):
        call(b"", timeout=30, metadata=((header, "192.0.2.1"),))


def test_bytes_that_are_no_message_fail_alone(channel: grpc.Channel) -> None:
    call: Any = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
    messages = [b"\xff\xff\xff", request(id="good").SerializeToString()]
    wrong, right = map(pb.ModelStreamInferResponse.FromString, call(iter(messages), timeout=30))
    assert "expected a inference.ModelInferRequest, got other bytes" in wrong.error_message
    assert right.infer_response.id == "good"
