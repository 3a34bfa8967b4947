"""The convscope client: classify images over gRPC and look inside the network.

Names load when they are first used, so that importing this package, and with
it every start of the command line, costs neither numpy nor gRPC.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convscope_client.aio import AsyncClient
    from convscope_client.client import Client
    from convscope_client.drawing import draw_feature_maps
    from convscope_client.errors import (
        ClientError,
        DeadlineExceeded,
        InvalidRequest,
        LimitExceeded,
        NotFound,
        Overloaded,
        ServerError,
        Unauthenticated,
        Unavailable,
        Unsupported,
    )
    from convscope_client.feature_request import FeatureRequest
    from convscope_client.health import ServingStatus
    from convscope_client.images import ImageLike
    from convscope_client.models import FloatInput, ImageInput, Layer, Model, ModelList, Volume
    from convscope_client.results import (
        Classification,
        ClassifyResult,
        ClassScore,
        FeatureMap,
        Timings,
    )

__all__ = [
    "AsyncClient",
    "ClassScore",
    "Classification",
    "ClassifyResult",
    "Client",
    "ClientError",
    "DeadlineExceeded",
    "FeatureMap",
    "FeatureRequest",
    "FloatInput",
    "ImageInput",
    "ImageLike",
    "InvalidRequest",
    "Layer",
    "LimitExceeded",
    "Model",
    "ModelList",
    "NotFound",
    "Overloaded",
    "ServerError",
    "ServingStatus",
    "Timings",
    "Unauthenticated",
    "Unavailable",
    "Unsupported",
    "Volume",
    "draw_feature_maps",
]

# Where each name lives; tests/unit/clients/test_public_api.py holds it against __all__.
_NAMES_BY_MODULE = {
    "aio": ("AsyncClient",),
    "client": ("Client",),
    "drawing": ("draw_feature_maps",),
    "errors": (
        "ClientError",
        "DeadlineExceeded",
        "InvalidRequest",
        "LimitExceeded",
        "NotFound",
        "Overloaded",
        "ServerError",
        "Unauthenticated",
        "Unavailable",
        "Unsupported",
    ),
    "feature_request": ("FeatureRequest",),
    "health": ("ServingStatus",),
    "images": ("ImageLike",),
    "models": ("FloatInput", "ImageInput", "Layer", "Model", "ModelList", "Volume"),
    "results": ("ClassScore", "Classification", "ClassifyResult", "FeatureMap", "Timings"),
}
_MODULES = {name: module for module, names in _NAMES_BY_MODULE.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
