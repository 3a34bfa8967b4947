"""Reads a model's config.pbtxt, as a Triton repository has it, into our settings."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from google.protobuf import text_format
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from convscope_proto.inference import model_config_pb2 as pb
from convscope_server.errors import ModelError
from convscope_server.model_settings import ModelSettings
from convscope_server.version_policy import VersionPolicy

_DEVICES = {pb.ModelInstanceGroup.KIND_CPU: "cpu", pb.ModelInstanceGroup.KIND_GPU: "cuda"}
_THREAD_COUNT = "intra_op_thread_count"  # the name that Triton's onnxruntime backend has for it

# Fields that are read below, or that say nothing this server would have to obey. Any
# other that a file sets is named as ignored.
_READ = {
    "name",
    "platform",
    "backend",
    "version_policy.latest",
    "version_policy.latest.num_versions",
    "version_policy.all",
    "version_policy.specific.versions",
    "max_batch_size",
    "output.name",
    "output.label_filename",
    "instance_group.name",
    "instance_group.kind",
    "instance_group.count",
    "default_model_filename",
    "dynamic_batching.max_queue_delay_microseconds",
    "dynamic_batching.priority_levels",
    "dynamic_batching.default_priority_level",
    "dynamic_batching.default_queue_policy.max_queue_size",
    "dynamic_batching.default_queue_policy.default_timeout_microseconds",
    f"parameters.{_THREAD_COUNT}",
}


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """What a config.pbtxt says.

    Attributes:
        settings: Settings of the model; labels are not among them yet.
        version_policy: Which versions are served; None: as the server's flag says.
        model_filename: Name of the model's file in each version's folder.
        label_filename: The file of labels in the model's folder; empty for none.
        ignored: What the file sets and this server does not obey.
    """

    settings: ModelSettings = field(default_factory=ModelSettings)
    version_policy: VersionPolicy | None = None
    model_filename: str = "model.onnx"
    label_filename: str = ""
    ignored: tuple[str, ...] = ()


def parse_model_config(text: str, name: str) -> ModelConfig:
    """What the text of a model's config.pbtxt says.

    Args:
        text: A protobuf text of inference.ModelConfig.
        name: The model's folder, which the file may repeat.

    Raises:
        ModelError: The text is of another form, or for a model that this server cannot run.
    """
    config = pb.ModelConfig()
    try:
        text_format.Parse(text, config, allow_unknown_field=True)
    except (text_format.ParseError, RecursionError) as error:
        raise ModelError(f"config.pbtxt: expected a ModelConfig as text, {error}") from None
    if config.name not in ("", name):
        raise ModelError(
            f"config.pbtxt: expected name {name!r}, as its folder is called, got {config.name!r}"
        )
    if config.platform not in ("", "onnxruntime_onnx") or config.backend not in ("", "onnxruntime"):
        raise ModelError(
            "config.pbtxt: expected platform onnxruntime_onnx or backend onnxruntime, "
            f"got {(config.platform or config.backend)!r}: export the model to ONNX"
        )
    return ModelConfig(
        settings=_settings(config),
        version_policy=_version_policy(config.version_policy),
        model_filename=config.default_model_filename or "model.onnx",
        label_filename=next(filter(None, (out.label_filename for out in config.output)), ""),
        ignored=tuple(sorted({*_ignored(config), *_unknown(text)})),
    )


def _settings(config: pb.ModelConfig) -> ModelSettings:
    batching = config.dynamic_batching
    queue = batching.default_queue_policy
    groups = config.instance_group
    kinds = {group.kind for group in groups} & _DEVICES.keys()
    if len(kinds) > 1:
        raise ModelError("config.pbtxt: expected instance groups of one kind, got CPU and GPU")
    return ModelSettings(
        max_batch_size=max(config.max_batch_size, 0) or None,
        max_queue_delay_s=batching.max_queue_delay_microseconds / 1e6 or None,
        # Triton counts requests; this queue counts their images.
        max_queue_rows=queue.max_queue_size or None,
        default_timeout_s=queue.default_timeout_microseconds / 1e6 or None,
        priority_levels=batching.priority_levels or None,
        default_priority=batching.default_priority_level or None,
        device=_DEVICES[kinds.pop()] if kinds else None,
        instance_count=sum(max(group.count, 1) for group in groups) or None,
        thread_count=_thread_count(config),
    )


def _thread_count(config: pb.ModelConfig) -> int | None:
    if _THREAD_COUNT not in config.parameters:
        return None
    text = config.parameters[_THREAD_COUNT].string_value
    if not (text.isascii() and text.isdigit() and int(text) <= 1024):
        raise ModelError(
            f"config.pbtxt: expected {_THREAD_COUNT} as a whole number up to 1024, got {text!r}"
        )
    return int(text) or None


def _version_policy(policy: pb.ModelVersionPolicy) -> VersionPolicy | None:
    kind = policy.WhichOneof("policy_choice")
    if kind == "latest":
        return VersionPolicy(latest=policy.latest.num_versions or 1)
    if kind == "all":
        return VersionPolicy(latest=None)
    if kind == "specific":
        if not policy.specific.versions:
            raise ModelError("config.pbtxt: expected versions in version_policy.specific, got none")
        return VersionPolicy(specific=tuple(sorted(policy.specific.versions)))
    return None


def _ignored(config: pb.ModelConfig) -> set[str]:
    """Names of the fields that are set and not read; a whole message where none of it is."""
    tops = {path.partition(".")[0] for path in _READ}
    found = set()
    for path in _set_fields(config):
        if path not in _READ:
            top = path.partition(".")[0]
            found.add(path if top in tops else top)
    return found


def _set_fields(message: Message, prefix: str = "") -> Iterator[str]:
    for descriptor, value in message.ListFields():
        path = f"{prefix}{descriptor.name}"
        if descriptor.message_type is None:
            yield path
        elif descriptor.message_type.GetOptions().map_entry:
            yield from (f"{path}.{key}" for key in value)
        else:
            parts: Iterable[Message] = value if descriptor.is_repeated else (value,)
            for part in parts:
                yield from _set_fields(part, f"{path}.") if part.ListFields() else (path,)


def _unknown(text: str) -> set[str]:
    """Names in field position that no message of a ModelConfig has.

    The parser skips unknown fields without a word, so this looks for itself.
    """
    bare = re.sub(r"\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*'|#[^\n]*", "''", text)
    return set(re.findall(r"([A-Za-z_]\w*)\s*[:{<]", bare)) - _KNOWN


def _field_names(descriptor: Descriptor, seen: set[str]) -> set[str]:
    names: set[str] = set()
    if descriptor.full_name not in seen:
        seen.add(descriptor.full_name)
        for child in descriptor.fields:
            names.add(child.name)
            if child.message_type is not None:
                names |= _field_names(child.message_type, seen)
    return names


_KNOWN = _field_names(pb.ModelConfig.DESCRIPTOR, set())
