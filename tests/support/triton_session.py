"""What an operator does with an unmodified tritonclient; run as a process of its own.

Its descriptors must not have to share a process with ours. Prints one line a step.
"""

import sys
from collections.abc import Callable

import tritonclient.grpc as triton


def main(address: str, model: str) -> None:
    with triton.InferenceServerClient(address) as client:

        def attempt(call: Callable[[], object]) -> str:
            try:
                call()
            except triton.InferenceServerException as error:
                return f"{error.status()} {error.message()}"
            return "OK"

        def show(step: str) -> None:
            entries = [
                f"{entry.name}/{entry.version}/{entry.state}"
                for entry in client.get_model_repository_index().models
            ]
            print(step, client.is_model_ready(model), " ".join(entries))

        print("live", client.is_server_live(), "ready", client.is_server_ready())
        show("before")
        print("load", attempt(lambda: client.load_model(model)))
        show("loaded")
        print("version 1", client.is_model_ready(model, "1"), client.is_model_ready(model, "9"))
        print("unload", attempt(lambda: client.unload_model(model, unload_dependents=True)))
        while client.is_model_ready(model):
            pass
        print("again", attempt(lambda: client.unload_model(model)))
        print("absent", attempt(lambda: client.load_model("absent")))
        print("config", attempt(lambda: client.load_model(model, config="{}")))
        files = {"file:1/model.onnx": b"x"}
        print("files", attempt(lambda: client.load_model(model, config="{}", files=files)))


if __name__ == "__main__":
    main(*sys.argv[1:])
