"""All services of the server: which there are, and what each of them works with."""

from concurrent.futures import Executor

from convscope_server.call import Methods
from convscope_server.config import ServerConfig
from convscope_server.inference import Inference
from convscope_server.lifecycle import Lifecycle
from convscope_server.repository import Repository
from convscope_server.served_models import Models
from convscope_server.servicers import classifier, health, open_inference, reflection
from convscope_server.servicers.open_inference_models import OpenInferenceModelsServicer
from convscope_server.servicers.open_inference_repository import OpenInferenceRepositoryServicer
from convscope_server.servicers.open_inference_settings import OpenInferenceSettingsServicer
from convscope_server.servicers.open_inference_shared_memory import (
    OpenInferenceSharedMemoryServicer,
)
from convscope_server.shared_memory import SharedMemory
from convscope_server.trace import Tracer

_NAMES = (classifier.SERVICE, open_inference.SERVICE, health.SERVICE, reflection.SERVICE)


def all_methods(
    config: ServerConfig,
    models: Models,
    repository: Repository,
    lifecycle: Lifecycle,
    executor: Executor,
    tracer: Tracer,
) -> Methods:
    """Every method of every service, by its full name.

    Args:
        config: The server's settings.
        models: What requests find their model in.
        repository: What loads models and unloads them.
        lifecycle: Where the server stands.
        executor: Threads for pictures and large answers.
        tracer: What requests may be traced by.
    """
    memory = SharedMemory(
        config.shared_memory, max_read_bytes=config.max_message_bytes, workers=config.workers
    )
    inference = Inference(
        max_message_bytes=config.max_message_bytes,
        max_picture_pixels=config.max_picture_pixels,
        max_in_flight_bytes=config.max_in_flight_bytes,
        executor=executor,
        tracer=tracer,
    )
    servicers = (
        classifier.ClassifierServicer(
            models, lifecycle, inference, max_message_bytes=config.max_message_bytes
        ),
        open_inference.OpenInferenceServicer(
            models, lifecycle, inference, memory, max_message_bytes=config.max_message_bytes
        ),
        OpenInferenceModelsServicer(models, lifecycle),
        OpenInferenceRepositoryServicer(
            repository, lifecycle, allows_control=config.model_control == "explicit"
        ),
        OpenInferenceSettingsServicer(
            tracer, models, control=config.settings_control, workers=config.workers
        ),
        OpenInferenceSharedMemoryServicer(memory),
        health.HealthServicer(lifecycle, models, frozenset(_NAMES)),
        reflection.ReflectionServicer(_NAMES),
    )
    return {name: how for servicer in servicers for name, how in servicer.methods().items()}
