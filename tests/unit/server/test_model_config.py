"""config.pbtxt of an existing Triton repository."""

import pytest

from convscope_server.errors import ModelError
from convscope_server.model_config import ModelConfig, parse_model_config
from convscope_server.model_settings import ModelSettings
from convscope_server.version_policy import VersionPolicy

# What a Triton user's file for an image classifier looks like.
TYPICAL = """
name: "resnet"
platform: "onnxruntime_onnx"
max_batch_size: 32
input [ { name: "images" data_type: TYPE_UINT8 dims: [ 224, 224, 3 ] } ]
output [
  { name: "scores" data_type: TYPE_FP32 dims: [ 10 ] label_filename: "labels.txt" }
]
version_policy: { latest { num_versions: 2 } }
instance_group [ { count: 2 kind: KIND_CPU } ]
dynamic_batching {
  preferred_batch_size: [ 8, 16 ]
  max_queue_delay_microseconds: 500
  priority_levels: 3
  default_priority_level: 2
  default_queue_policy { max_queue_size: 100 default_timeout_microseconds: 250000 }
}
parameters { key: "intra_op_thread_count" value { string_value: "2" } }
parameters { key: "cudnn_conv_algo_search" value { string_value: "1" } }
optimization { execution_accelerators { gpu_execution_accelerator { name: "tensorrt" } } }
"""


def test_what_is_honoured_and_what_is_named_as_ignored() -> None:
    assert parse_model_config(TYPICAL, "resnet") == ModelConfig(
        settings=ModelSettings(
            max_batch_size=32,
            max_queue_delay_s=0.0005,
            max_queue_rows=100,
            default_timeout_s=0.25,
            priority_levels=3,
            default_priority=2,
            device="cpu",
            instance_count=2,
            thread_count=2,
        ),
        version_policy=VersionPolicy(latest=2),
        label_filename="labels.txt",
        ignored=(
            "dynamic_batching.preferred_batch_size",
            "input",
            "optimization",
            "output.data_type",
            "output.dims",
            "parameters.cudnn_conv_algo_search",
        ),
    )


def test_an_empty_file_changes_nothing() -> None:
    assert parse_model_config("", "any") == ModelConfig()


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("version_policy { all {} }", VersionPolicy(latest=None)),
        ("version_policy { latest {} }", VersionPolicy(latest=1)),
        ("version_policy { specific { versions: [ 3, 1 ] } }", VersionPolicy(specific=(1, 3))),
        ("", None),
    ],
)
def test_version_policies(text: str, policy: VersionPolicy | None) -> None:
    config = parse_model_config(text, "any")
    assert (config.version_policy, config.ignored) == (policy, ())


def test_fields_that_no_triton_of_ours_knows_are_tolerated_and_named() -> None:
    text = """
    max_batch_size: 4  # not_a_field: this is a comment
    brand_new_field: 7
    default_model_filename: "odd: {name"
    dynamic_batching { brand_new_switch: true }
    brand_new_block { inner: "x" }
    """
    config = parse_model_config(text, "any")
    assert config.settings.max_batch_size == 4
    assert config.model_filename == "odd: {name"
    assert {"brand_new_field", "brand_new_switch", "brand_new_block"} <= set(config.ignored)
    assert "not_a_field" not in config.ignored


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('platform: "tensorflow_savedmodel"', "expected platform onnxruntime_onnx"),
        ('backend: "python"', "got 'python': export the model to ONNX"),
        ('name: "other"', "expected name 'any'"),
        ("max_batch_size: many", "expected a ModelConfig as text"),
        ("max_batch_size: 4 }", "expected a ModelConfig as text"),
        ("instance_group [ { kind: KIND_CPU }, { kind: KIND_GPU } ]", "of one kind"),
        ("version_policy { specific {} }", "expected versions"),
        (
            'parameters { key: "intra_op_thread_count" value { string_value: "-1" } }',
            "whole number up to 1024, got '-1'",
        ),
        ("cc_model_filenames {" * 3000, "expected a ModelConfig as text"),
    ],
)
def test_what_cannot_be_served_says_why_in_one_line(text: str, message: str) -> None:
    with pytest.raises(ModelError, match=message) as info:
        parse_model_config(text, "any")
    assert "\n" not in str(info.value)
