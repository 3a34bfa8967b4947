"""What people do with an unmodified tritonclient; run as a process of its own.

Its descriptors must not have to share a process with ours. The name of a function below and
the server's address are its arguments; it ends with status 0 if all was as it should be.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path
from queue import Queue
from typing import Any
from uuid import uuid4

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from PIL import Image
from tritonclient.utils import shared_memory

sys.path.insert(0, str(Path(__file__).parents[1]))
from support.tiny_models import LABELS, activations, random_images

ALL = ("scores", "probabilities", "conv1", "relu1", "pool1", "fc1")


def images_input(images: np.ndarray) -> Any:
    tensor = triton.InferInput("images", images.shape, "UINT8")
    tensor.set_data_from_numpy(images)
    return tensor


def wanted(*names: str) -> list[Any]:
    return [triton.InferRequestedOutput(name) for name in names]


def check(result: Any, images: np.ndarray, names: tuple[str, ...] = ALL) -> None:
    expected = activations(images)
    assert [output.name for output in result.get_response().outputs] == list(names)
    for name in names:
        values = result.as_numpy(name)
        assert values.dtype == np.float32
        np.testing.assert_allclose(values, expected[name], rtol=1e-5, atol=1e-30)


def failure(client: Any, *arguments: Any, **options: Any) -> tuple[str, str]:
    """The code and the message that an inference ends with."""
    try:
        client.infer(*arguments, **options)
    except triton.InferenceServerException as error:
        return error.status().removeprefix("StatusCode."), error.message()
    raise AssertionError("it was answered")


def describe(address: str) -> None:
    with triton.InferenceServerClient(address) as client:
        server = client.get_server_metadata()
        assert server.name == "convscope"
        assert "statistics" in server.extensions
        assert "cuda_shared_memory" not in server.extensions  # only what there is
        metadata = client.get_model_metadata("tiny")
        assert (metadata.name, list(metadata.versions)) == ("tiny", ["1"])
        (images,) = metadata.inputs
        assert (images.name, images.datatype) == ("images", "UINT8")
        assert list(images.shape) == [-1, 4, 4, 3]
        assert [output.name for output in metadata.outputs] == ["scores", "probabilities"]
        config = client.get_model_config("tiny", as_json=True)["config"]
        assert config["max_batch_size"] == 64
        assert config["input"][0]["dims"] == ["4", "4", "3"]
        assert '"conv1": [2, 4, 4]' in config["parameters"]["layers"]["string_value"]
        before = client.get_inference_statistics("tiny", "1").model_stats[0]
        client.infer("tiny", [images_input(random_images(3))])
        after = client.get_inference_statistics("tiny").model_stats[0]
        assert after.inference_count - before.inference_count == 3
        assert after.execution_count - before.execution_count == 1
        stages = after.inference_stats
        counts = {stages.success.count, stages.queue.count, stages.compute_input.count}
        assert counts == {stages.compute_infer.count, stages.compute_output.count}
        assert stages.success.ns >= stages.queue.ns + stages.compute_infer.ns > 0
        assert after.last_inference > 0
        assert 3 in [batch.batch_size for batch in after.batch_stats]
        assert len(client.get_inference_statistics().model_stats) == 1


def infer(address: str) -> None:
    images = random_images(5)
    with triton.InferenceServerClient(address) as client:
        result = client.infer("tiny", [images_input(images)], request_id="seven")
        check(result, images, ("scores", "probabilities"))
        response = result.get_response()
        assert (response.id, response.model_name, response.model_version) == ("seven", "tiny", "1")
        check(client.infer("tiny", [images_input(images)], outputs=wanted(*ALL)), images)
        some = ("pool1", "scores", "conv1")
        check(client.infer("tiny", [images_input(images)], outputs=wanted(*some)), images, some)
        check(
            client.infer(
                "tiny",
                [images_input(images)],
                model_version="1",
                priority=1,
                timeout=10_000_000,
                client_timeout=30,
                compression_algorithm="gzip",
                parameters={"anything": "goes"},
            ),
            images,
            ("scores", "probabilities"),
        )
        many = random_images(500)  # more than a batch
        check(client.infer("tiny", [images_input(many)], outputs=wanted(*ALL)), many)


def pictures(address: str) -> None:
    file = BytesIO()
    Image.new("RGB", (300, 200), (200, 100, 50)).save(file, "PNG")
    flat = np.broadcast_to(np.array([200, 100, 50], np.uint8), (2, 4, 4, 3))
    for shape in ((2,), (2, 1)):
        tensor = triton.InferInput("images", shape, "BYTES")
        tensor.set_data_from_numpy(np.array([file.getvalue()] * 2, np.object_).reshape(shape))
        with triton.InferenceServerClient(address) as client:
            check(
                client.infer("tiny", [tensor], outputs=wanted("scores", "pool1")),
                flat,
                ("scores", "pool1"),
            )


def classification(address: str) -> None:
    images = random_images(4)
    outputs = [
        triton.InferRequestedOutput("scores", class_count=2),
        triton.InferRequestedOutput("fc1", class_count=9),
    ]
    with triton.InferenceServerClient(address) as client:
        result = client.infer("tiny", [images_input(images)], outputs=outputs)
    scores = activations(images)["scores"]
    order = np.argsort(-scores, axis=1, kind="stable")
    found = result.as_numpy("scores")
    assert found.shape == (4, 2)
    for row, indices, values in zip(found, order, scores, strict=True):
        expected = [f"{values[i]:f}:{i}:{LABELS[i]}" for i in indices[:2]]
        assert [text.decode() for text in row] == expected
    assert result.as_numpy("fc1").shape == (4, 3)
    assert result.as_numpy("fc1")[0, 0].decode() == f"{scores[0].max():f}:{order[0, 0]}"


def asynchronous(address: str) -> None:
    async def run() -> None:
        async with triton_aio.InferenceServerClient(address) as client:
            assert await client.is_server_ready()

            async def one(seed: int) -> None:
                images = random_images(1 + seed % 3, seed)
                result = await client.infer("tiny", [images_input(images)], outputs=wanted(*ALL))
                check(result, images)

            await asyncio.gather(*map(one, range(100)))

            async def requests() -> AsyncIterator[dict[str, Any]]:
                for seed in range(100):
                    model = "absent" if seed == 50 else "tiny"
                    yield {
                        "model_name": model,
                        "inputs": [images_input(random_images(1, seed))],
                        "request_id": str(seed),
                    }

            seed = 0
            async for result, error in client.stream_infer(requests()):
                if seed == 50:
                    assert "unknown model 'absent'" in error.message()
                else:
                    assert error is None
                    assert result.get_response().id == str(seed)
                    check(result, random_images(1, seed), ("scores", "probabilities"))
                seed += 1
            assert seed == 100

    asyncio.run(run())


def streaming(address: str) -> None:
    answers: Queue[tuple[Any, Any]] = Queue()
    with triton.InferenceServerClient(address) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        for seed in range(300):
            client.async_stream_infer(
                "tiny",
                [images_input(random_images(1 + seed % 3, seed))],
                outputs=wanted("no such" if seed == 7 else "scores", "pool1"),
                request_id=str(seed),
                enable_empty_final_response=True,
            )
        for seed in range(300):
            result, error = answers.get(timeout=30)
            if seed == 7:
                assert "unexpected inference output 'no such'" in error.message()
                continue
            assert error is None, error
            response = result.get_response()
            assert response.id == str(seed)
            assert response.parameters["triton_final_response"].bool_param
            check(result, random_images(1 + seed % 3, seed), ("scores", "pool1"))
        client.stop_stream()


def strict_streaming(address: str) -> None:
    """With Triton's header an error ends the stream, with its status."""
    answers: Queue[tuple[Any, Any]] = Queue()
    with triton.InferenceServerClient(address) as client:
        client.start_stream(
            lambda result, error: answers.put((result, error)),
            headers={"triton_grpc_error": "true"},
        )
        images = images_input(random_images(1))
        for name in ("tiny", "absent"):
            client.async_stream_infer(name, [images])
        assert answers.get(timeout=30)[1] is None
        error = answers.get(timeout=30)[1]
        assert error.status() == "StatusCode.NOT_FOUND", error
        client.stop_stream()


def shared(address: str) -> None:
    images = random_images(6)
    expected = activations(images)
    size_bytes = {name: expected[name].nbytes for name in ("scores", "conv1")}
    with triton.InferenceServerClient(address) as client:
        handle = shared_memory.create_shared_memory_region(
            "inside", "/convscope_test_in", images.nbytes + 64
        )
        out = shared_memory.create_shared_memory_region(
            "outside", "/convscope_test_out", sum(size_bytes.values())
        )
        try:
            shared_memory.set_shared_memory_region(handle, [images], offset=64)
            client.register_system_shared_memory("in", "/convscope_test_in", images.nbytes + 64)
            client.register_system_shared_memory(
                "out", "/convscope_test_out", sum(size_bytes.values())
            )
            tensor = triton.InferInput("images", images.shape, "UINT8")
            tensor.set_shared_memory("in", images.nbytes, offset=64)
            outputs = wanted("scores", "probabilities", "conv1")
            outputs[0].set_shared_memory("out", size_bytes["scores"])
            outputs[2].set_shared_memory("out", size_bytes["conv1"], offset=size_bytes["scores"])
            result = client.infer("tiny", [tensor], outputs=outputs)
            check_probabilities = result.as_numpy("probabilities")
            np.testing.assert_allclose(check_probabilities, expected["probabilities"], rtol=1e-5)
            offset = 0
            for name in ("scores", "conv1"):
                shape = list(expected[name].shape)
                found = shared_memory.get_contents_as_numpy(out, np.float32, shape, offset)
                np.testing.assert_array_equal(found, expected[name])
                assert list(result.get_output(name).shape) == shape
                offset += size_bytes[name]
            outputs[0].set_shared_memory("out", 8)
            code, message = failure(client, "tiny", [tensor], outputs=outputs)
            assert code == "INVALID_ARGUMENT"
            assert "expected a shared_memory_byte_size of at least 72" in message
        finally:
            client.unregister_system_shared_memory()
            shared_memory.destroy_shared_memory_region(handle)
            shared_memory.destroy_shared_memory_region(out)


def regions(address: str) -> None:
    """Registering, telling and taking back, and what is refused of it."""
    key = f"/convscope_test_{uuid4().hex}"
    handle = shared_memory.create_shared_memory_region("regions", key, 100)
    try:
        with triton.InferenceServerClient(address) as client:
            client.unregister_system_shared_memory()
            client.unregister_cuda_shared_memory()
            client.register_system_shared_memory("one", key, 60, offset=40)
            client.register_system_shared_memory("two", key, 100)
            (told,) = client.get_system_shared_memory_status("one").regions.values()
            assert (told.name, told.key, told.offset, told.byte_size) == ("one", key, 40, 60)
            assert set(client.get_system_shared_memory_status().regions) == {"one", "two"}
            assert not client.get_cuda_shared_memory_status().regions
            for arguments, code in (
                (("one", key, 1), "ALREADY_EXISTS"),
                (("three", key, 101), "INVALID_ARGUMENT"),
                (("three", "/../etc/passwd", 1), "INVALID_ARGUMENT"),
                (("three", key + "-absent", 1), "INVALID_ARGUMENT"),
            ):
                refused = refusal(lambda a=arguments: client.register_system_shared_memory(*a))
                assert refused == code
            absent = refusal(lambda: client.get_system_shared_memory_status("three"))
            assert absent == "NOT_FOUND"
            cuda = refusal(lambda: client.register_cuda_shared_memory("c", b"aGFuZGxl", 0, 1))
            assert cuda == "UNIMPLEMENTED"
            client.unregister_system_shared_memory("one")
            client.unregister_system_shared_memory("never there")
            assert set(client.get_system_shared_memory_status().regions) == {"two"}
            client.unregister_system_shared_memory()
            assert not client.get_system_shared_memory_status().regions
    finally:
        shared_memory.destroy_shared_memory_region(handle)


def no_regions(address: str) -> None:
    with triton.InferenceServerClient(address) as client:
        client.unregister_system_shared_memory()
        client.unregister_cuda_shared_memory()
        refused = refusal(lambda: client.register_system_shared_memory("r", "/absent", 1))
        assert refused == "UNIMPLEMENTED"


def errors(address: str) -> None:
    with triton.InferenceServerClient(address) as client:
        good = images_input(random_images(1))
        for expected, arguments, options in (
            (("NOT_FOUND", "unknown model 'absent'"), ("absent", [good]), {}),
            (("NOT_FOUND", "unknown version '9'"), ("tiny", [good]), {"model_version": "9"}),
            (
                ("INVALID_ARGUMENT", "version string 'one'"),
                ("tiny", [good]),
                {"model_version": "one"},
            ),
            (
                ("INVALID_ARGUMENT", "unexpected inference output 'conv9'"),
                ("tiny", [good]),
                {"outputs": wanted("conv9")},
            ),
            (
                ("INVALID_ARGUMENT", "(N, 4, 4, 3), got uint8 (1, 8, 8, 3)"),
                ("tiny", [images_input(np.zeros((1, 8, 8, 3), np.uint8))]),
                {},
            ),
        ):
            code, message = failure(client, *arguments, **options)
            assert code == expected[0], (code, message)
            assert expected[1] in message, message


def logging_settings(address: str) -> None:
    with triton.InferenceServerClient(address) as client:
        before = client.get_log_settings(as_json=True)["settings"]
        assert set(before) == {
            *("log_file", "log_info", "log_warning", "log_error"),
            *("log_verbose_level", "log_format"),
        }
        client.update_log_settings({"log_info": False, "log_verbose_level": 1})
        changed = client.update_log_settings({"log_format": "default"}, as_json=True)["settings"]
        assert changed["log_info"].get("bool_param", False) is False
        assert changed["log_verbose_level"]["uint32_param"] == 1
        assert changed["log_format"]["string_param"] == "default"
        for settings, code in (
            ({"log_file": "elsewhere"}, "UNIMPLEMENTED"),
            ({"log_format": "XML"}, "INVALID_ARGUMENT"),
            ({"log_nothing": True}, "INVALID_ARGUMENT"),
        ):
            assert refusal(lambda s=settings: client.update_log_settings(s)) == code
        client.update_log_settings(
            {"log_info": True, "log_verbose_level": 0, "log_format": "ISO8601"}
        )


def tracing(address: str) -> None:
    images = [images_input(random_images(1))]
    with triton.InferenceServerClient(address) as client:
        settings = client.get_trace_settings(as_json=True)["settings"]
        assert {name: one["value"] for name, one in settings.items()} == {
            "trace_level": ["OFF"],
            "trace_rate": ["1000"],
            "trace_count": ["-1"],
            "log_frequency": ["0"],
            "trace_mode": ["triton"],
            "trace_file": ["trace.json"],
        }
        client.infer("tiny", images)
        client.update_trace_settings(
            settings={"trace_level": ["TIMESTAMPS"], "trace_rate": "2", "trace_count": "3"}
        )
        for number in range(20):
            client.infer("tiny", images, request_id=str(number))
        left = client.get_trace_settings(as_json=True)["settings"]["trace_count"]["value"]
        assert left == ["0"]
        client.update_trace_settings(settings={"trace_level": None})
        client.update_trace_settings("tiny", {"trace_level": "TIMESTAMPS", "trace_rate": "1"})
        own = client.get_trace_settings("tiny", as_json=True)["settings"]
        assert own["trace_rate"]["value"] == ["1"]
        client.infer("tiny", images, request_id="own" + 1000 * "x")
        client.update_trace_settings("tiny", {"trace_level": None, "trace_rate": None})
        own = client.get_trace_settings("tiny", as_json=True)["settings"]
        assert own["trace_rate"]["value"] == ["2"]
        for changes, code in (
            ({"trace_level": "TENSORS"}, "UNIMPLEMENTED"),
            ({"trace_file": "elsewhere"}, "UNIMPLEMENTED"),
            ({"trace_rate": "0"}, "INVALID_ARGUMENT"),
            ({"trace_rate": ["1", "2"]}, "INVALID_ARGUMENT"),
            ({"trace_level": "ON"}, "INVALID_ARGUMENT"),
            ({"trace_level": ["OFF", "TIMESTAMPS"]}, "INVALID_ARGUMENT"),
            ({"trace_rate": str(1 << 31)}, "INVALID_ARGUMENT"),
        ):
            assert refusal(lambda c=changes: client.update_trace_settings(settings=c)) == code
        absent = refusal(lambda: client.get_trace_settings("absent"))
        assert absent == "NOT_FOUND"


def refusal(call: Any) -> str:
    """The code that a call ends with."""
    try:
        call()
    except triton.InferenceServerException as error:
        return str(error.status()).removeprefix("StatusCode.")
    return "OK"


SESSIONS = (
    *(describe, infer, pictures, classification, asynchronous, streaming, strict_streaming),
    *(shared, regions, no_regions, errors, logging_settings, tracing),
)

if __name__ == "__main__":
    {session.__name__: session for session in SESSIONS}[sys.argv[1]](sys.argv[2])
