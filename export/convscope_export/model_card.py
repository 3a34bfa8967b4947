"""The Markdown card that lies beside a model, made from the model's own metadata."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from convscope_export.cifar10 import VALIDATION_IMAGES
from convscope_export.presets import DEFAULT_RECIPE, PRESETS

_OPTIMIZERS = {"adamw": "AdamW", "sgd": "SGD with a Nesterov momentum of 0.9"}


def card(metadata: Mapping[str, Any], size_bytes: int) -> str:
    """Markdown text of a model's card.

    Args:
        metadata: All of docs/model-file.md's keys, without prefix.
        size_bytes: Of the ONNX file.
    """
    summary, layers = _summary(metadata, size_bytes), _layers(metadata)
    verification = _verification(metadata)
    if metadata["training"] is None:
        sections = [summary, _untrained(), layers, _draw(metadata), verification]
    else:
        sections = [
            *(summary, layers, _data(metadata), _accuracy(metadata)),
            *(_use(metadata), _reproduce(metadata), verification),
        ]
    return "\n\n".join("\n".join(section) for section in sections) + "\n"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], numbers_from: int) -> list[str]:
    """Markdown table whose columns from `numbers_from` on stand to the right."""
    rules = ["---" if column < numbers_from else "---:" for column in range(len(header))]
    return [f"| {' | '.join(row)} |" for row in (header, rules, *rows)]


def _summary(metadata: Mapping[str, Any], size_bytes: int) -> list[str]:
    accuracy = metadata["accuracy"]
    parameters = sum(layer["weights"] + layer["biases"] for layer in metadata["layers"])
    multiply_adds = sum(layer["multiply_adds"] for layer in metadata["layers"])
    entry = metadata["input"]
    return [
        f"# {metadata['name']}",
        "",
        "<!-- Written by convscope export from the model's metadata: change it there. -->",
        "",
        f"{metadata['description']}.",
        "",
        f"    {metadata['architecture']}",
        "",
        *_table(
            ("", ""),
            (
                ("top-1 accuracy", _top1(accuracy)),
                ("parameters", f"{parameters:,}"),
                ("multiply-adds for one picture", f"{multiply_adds:,}"),
                ("file", f"{size_bytes:,} bytes, ONNX, {_precision(metadata)}"),
                (
                    "input",
                    f"`{entry['name']}`, {entry['dtype']}, "
                    f"`(N, {entry['height']}, {entry['width']}, {entry['channels']})`, "
                    f"{entry['color'] or 'any channels'}, "
                    f"{entry['range'][0]}-{entry['range'][1]}; "
                    "normalised inside the graph",
                ),
                (
                    "outputs",
                    f"`scores` and `probabilities`, float32, `(N, {len(metadata['labels'])})`",
                ),
                ("labels", _labels(metadata["labels"])),
            ),
            numbers_from=2,
        ),
    ]


def _precision(metadata: Mapping[str, Any]) -> str:
    return "float32" if metadata["quantization"] is None else "quantised"


def _labels(labels: Sequence[str]) -> str:
    shown = ", ".join(labels[:20])
    return shown if len(labels) <= 20 else f"{shown}, ... ({len(labels):,})"


def _top1(accuracy: Mapping[str, Any]) -> str:
    if accuracy["top1"] is None:
        return "none: untrained"
    return f"{accuracy['top1']:.2%} ({_accuracy_basis(accuracy)})"


def _untrained() -> list[str]:
    return [
        "## Untrained",
        "",
        "**The weights are random: this model's answers mean nothing.** It is there to measure a "
        "server with, and to look at volumes and feature maps of the architecture. Its labels "
        "are the class indices.",
    ]


def _draw(metadata: Mapping[str, Any]) -> list[str]:
    name, versions = metadata["name"], metadata["versions"]
    seed = f" --seed {metadata['seed']}" if metadata["seed"] else ""
    return [
        "## Reproduce",
        "",
        "```",
        f"convscope export {_source(metadata, '--preset ')}{seed} -o models/{name}/1/model.onnx",
        f"convscope verify models/{name}/1/model.onnx",
        "```",
        "",
        f"Weights: normal with variance 2 / fan-in, biases 0, seed {metadata['seed']}; Python "
        f"{versions.get('python', '?')} and torch {versions.get('torch', '?')}.",
        "",
        f"Exported at revision {metadata['git_revision'] or 'unknown'}.",
    ]


def _source(metadata: Mapping[str, Any], before_preset: str = "") -> str:
    """What the command line is given for the architecture: a preset's name, or notation."""
    name, notation = metadata["name"], metadata["architecture"]
    for preset in PRESETS.values():
        if str(preset.architecture) == notation:
            named = "" if name == preset.name else f" --name {name}"
            return f"{before_preset}{preset.name}{named}"
    return f"'{notation}' --name {name}"


def _accuracy_basis(accuracy: Mapping[str, Any]) -> str:
    return f"{accuracy['data']}, {accuracy['images']:,} images, {accuracy['method']}"


def _layers(metadata: Mapping[str, Any]) -> list[str]:
    rows = [
        (
            f"`{layer['name']}`",
            layer["notation"],
            "{width}x{height}x{depth}".format(**layer["volume"]),
            *(f"{layer[key]:,}" for key in ("weights", "biases", "multiply_adds")),
        )
        for layer in metadata["layers"]
    ]
    totals = (
        f"**{sum(layer[key] for layer in metadata['layers']):,}**"
        for key in ("weights", "biases", "multiply_adds")
    )
    last = metadata["layers"][-1]
    return [
        "## Layers",
        "",
        "Every layer can be asked for by its name as a feature map "
        f"(`{last['name']}` is the tensor `{last['tensor']}`). Volumes are width x height x depth.",
        "",
        *_table(
            ("layer", "notation", "output volume", "weights", "biases", "multiply-adds"),
            [*rows, ("**total**", "", "", *totals)],
            numbers_from=2,
        ),
    ]


def _data(metadata: Mapping[str, Any]) -> list[str]:
    data = metadata["training_data"]
    mean, std = (
        ", ".join(f"{value:.4f}" for value in metadata["normalization"][key])
        for key in ("mean", "std")
    )
    return [
        "## Data",
        "",
        f"**{data['name']}**: {data['description']}.",
        "",
        f"Trained on {data['train_images']:,} images of the training split; its last "
        f"{data['validation_images']:,} were held out to choose the recipe. The test split was "
        "read once, after the training.",
        "",
        f"Pixels are scaled to 0-1 and normalised with mean ({mean}) and standard deviation "
        f"({std}), the channel statistics of the official training images.",
        "",
        f"SHA-256 of the six `.bin` files one after the other: `{data['sha256']}`",
    ]


def _accuracy(metadata: Mapping[str, Any]) -> list[str]:
    accuracy, training = metadata["accuracy"], metadata["training"]
    warning = (
        []
        if metadata["training_data"]["official"]
        else ["", "These are not accuracies on the official CIFAR-10 pixels; see Data."]
    )
    return [
        "## Accuracy",
        "",
        f"Top-1 **{accuracy['top1']:.2%}** on {_accuracy_basis(accuracy)}. On the held-out part "
        f"of the training split {training['validation_accuracy']:.2%}; on the augmented training "
        f"images {training['train_accuracy']:.2%}.",
        *warning,
        "",
        *_table(
            ("class", "top-1"),
            [
                (label, "-" if value is None else f"{value:.1%}")
                for label, value in accuracy["per_class"].items()
            ],
            numbers_from=1,
        ),
    ]


def _use(metadata: Mapping[str, Any]) -> list[str]:
    entry = metadata["input"]
    return [
        "## Intended use and limits",
        "",
        "For trying convscope out, for tests, and for looking at what each layer of a ConvNet "
        "does to a picture. Not for decisions that matter to anybody.",
        "",
        f"- It knows {len(metadata['labels'])} classes and answers one of them to any picture at "
        "all; its probabilities were never calibrated.",
        f"- It sees {entry['width']}x{entry['height']} pixels. Larger pictures are shrunk first "
        "and look unlike the ones it was trained on, so the accuracy above does not carry over.",
        "- CIFAR-10's pictures, and whatever is biased about them, are all that it has seen.",
    ]


def _reproduce(metadata: Mapping[str, Any]) -> list[str]:
    name, data = metadata["name"], metadata["training_data"]
    training, versions = metadata["training"], metadata["training"]["versions"]
    options = [_source(metadata)]
    preset = PRESETS.get(options[0].split()[0])
    recipe = DEFAULT_RECIPE if preset is None else preset.recipe
    if recipe.epochs != metadata["recipe"]["epochs"]:
        options.append(f"--epochs {metadata['recipe']['epochs']}")
    if data["train_images"] != 50_000 - VALIDATION_IMAGES:
        options.append(f"--train-images {data['train_images']}")
    if metadata["seed"] != 0:
        options.append(f"--seed {metadata['seed']}")
    settings = ", ".join(
        f"{key.replace('_', ' ')} {_plain(value)}"
        for key, value in metadata["recipe"].items()
        if key != "optimizer"
    )
    # Files made before recipes named their optimizer were all trained with AdamW.
    optimizer = _OPTIMIZERS[metadata["recipe"].get("optimizer", "adamw")]
    return [
        "## Reproduce",
        "",
        "```",
        f"convscope train {' '.join(options)} --data DIR -o runs/{name}",
        f"convscope export runs/{name} -o models/{name}/1/model.onnx",
        f"convscope verify models/{name}/1/model.onnx --run runs/{name}",
        "```",
        "",
        "`DIR` holds CIFAR-10 in its binary layout; without `--data` the official archive is "
        "downloaded.",
        "",
        f"Recipe: {optimizer}; {settings}; seed {metadata['seed']}. The training took "
        f"{training['seconds']:.0f} s on {training['device']} with "
        f"{training['threads']} {'thread' if training['threads'] == 1 else 'threads'}, "
        f"Python {versions.get('python', '?')} and torch {versions.get('torch', '?')}. The same "
        f"seed gives the same weights on the same machine with as many threads "
        f"(`OMP_NUM_THREADS={training['threads']}`); elsewhere they, and "
        "with them the accuracy, come out slightly different.",
        "",
        f"Exported at revision {metadata['git_revision'] or 'unknown'}.",
    ]


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _verification(metadata: Mapping[str, Any]) -> list[str]:
    found = metadata["verification"]
    batches = ", ".join(map(str, found["batches"]))
    return [
        "## Verification",
        "",
        f"ONNX Runtime against PyTorch for batches of {batches}, largest absolute difference; "
        f"tolerance {found['atol']:g}.",
        "",
        *_table(
            ("tensor", "max abs diff"),
            [(f"`{name}`", f"{value:.1e}") for name, value in found["max_abs_diff"].items()],
            numbers_from=1,
        ),
    ]
