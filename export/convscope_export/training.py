"""The training loop: one network, one recipe, a checkpoint after every epoch."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from convscope_export import checkpoint as checkpoints
from convscope_export.architecture import Architecture
from convscope_export.augmentation import augment, cut_out
from convscope_export.checkpoint import Checkpoint
from convscope_export.cifar10 import Images, UInt8Array
from convscope_export.errors import ExportError
from convscope_export.evaluation import evaluate
from convscope_export.network import Network, fold, he_initialize, normalize, resize
from convscope_export.recipe import Recipe

# Steps between two looks at the loss: reading it makes a GPU wait.
_REPORT_STEPS = 20

ScoresFunction = Callable[[UInt8Array], npt.NDArray[np.float32]]


class TrainingError(ExportError):
    """A training that cannot start or cannot go on."""


class DivergedError(TrainingError):
    """The loss is no longer a number; the last good checkpoint is kept."""


@dataclass(frozen=True)
class EpochResult:
    """One point of the training curve.

    Attributes:
        epoch: Counted from 1.
        loss: Mean over the epoch's images, with label smoothing.
        train_accuracy: 0-1, on the augmented images as they were trained on.
        validation_accuracy: 0-1, on the held-out part of the training split.
        images_per_s: Training speed, validation not counted.
    """

    epoch: int
    loss: float
    train_accuracy: float
    validation_accuracy: float
    images_per_s: float


class Observer(Protocol):
    """Watches a training; called from the thread that trains."""

    def started(self, epochs_done: int, epochs: int, images: int) -> None:
        """Training begins, or goes on after `epochs_done`; `images` are trained on per epoch."""

    def stepped(self, images_done: int, loss: float, accuracy: float) -> None:
        """Some steps of the epoch are done; loss and accuracy are the epoch's so far."""

    def finished_epoch(self, result: EpochResult) -> None:
        """An epoch is done and its checkpoint written."""


@dataclass(frozen=True)
class Trained:
    """A finished training: the network on the CPU, its curve, and the time it took."""

    network: Network
    curve: list[EpochResult]
    seconds: float


@contextmanager
def _deterministic() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """Rate of a step, 0 <= step < steps: up from 0 to the peak, then down to 0 in a line."""
    warmup = recipe.warmup * steps
    if step < warmup:
        return recipe.learning_rate * (step + 1) / (warmup + 1)
    return recipe.learning_rate * (steps - step) / (steps - warmup)


def _network_input(
    network: Network, pixels: Tensor, mean: Sequence[float], std: Sequence[float]
) -> Tensor:
    """Pixels, uint8 (N, C, H, W), stretched to the network's input and normalised, float32."""
    volume = network.architecture.input
    return normalize(resize(pixels, volume.height, volume.width), mean, std)


def scores_of(network: Network, mean: Sequence[float], std: Sequence[float]) -> ScoresFunction:
    """Function from pixels, uint8 (N, C, H, W) of any size, to scores, float32 (N, K)."""
    device = next(network.parameters()).device

    def scores(pixels: UInt8Array) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            batch = _network_input(network, torch.from_numpy(pixels).to(device), mean, std)
            answer: npt.NDArray[np.float32] = network(batch).cpu().numpy()
        return answer

    return scores


@dataclass(frozen=True)
class Training:
    """What to train, on what, and where the checkpoint is kept.

    Attributes:
        architecture: The network.
        recipe: How.
        seed: Of the weights and of every draw: same seed, same machine and same number
            of threads give the same weights, bit for bit.
        train: Images that are learnt from, at least a batch; augmented, then stretched to
            the network's input.
        validation: Images that only the curve sees.
        labels: The class labels.
        mean: Normalisation, per channel, on pixels scaled to 0-1.
        std: Normalisation, per channel, on pixels scaled to 0-1.
        data_sha256: Digest of the data, so that a checkpoint is not continued on other data.
    """

    architecture: Architecture
    recipe: Recipe
    seed: int
    train: Images
    validation: Images
    labels: Sequence[str]
    mean: Sequence[float]
    std: Sequence[float]
    data_sha256: str

    def fingerprint(self) -> dict[str, Any]:
        """What makes this training this one; the device does not."""
        return {
            "architecture": str(self.architecture),
            "recipe": asdict(self.recipe),
            "seed": self.seed,
            "data": self.data_sha256,
            "train images": len(self.train),
            "validation images": len(self.validation),
        }

    def run(self, path: Path, observer: Observer, device: str = "cpu") -> Trained:
        """Train to the recipe's last epoch, from the checkpoint where there is one.

        A training that is killed and run again ends with the same weights as one that
        was not, on the CPU bit for bit.

        Args:
            path: The checkpoint, written after each epoch.
            observer: Told how it goes.
            device: "cpu" or "cuda".

        Raises:
            TrainingError: No such device, or fewer images than a batch.
            DivergedError: The loss became infinite or no number.
            CheckpointError: The checkpoint is damaged or of another training.
            FileWriteError: The checkpoint cannot be written.
        """
        if device == "cuda" and not torch.cuda.is_available():
            raise TrainingError(
                "device cuda: expected a CUDA device, torch sees none; use --device cpu"
            )
        if len(self.train) < self.recipe.batch_size:
            raise TrainingError(
                f"expected at least a batch of {self.recipe.batch_size} training images, "
                f"got {len(self.train)}"
            )
        fingerprint = self.fingerprint()
        state = checkpoints.load(path, fingerprint) if path.exists() else None
        with _deterministic(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network = Network(self.architecture, batch_norm=self.recipe.batch_norm)
            if self.recipe.initialization == "he":
                he_initialize(network)
            network.to(device)
            if self.recipe.precision == "bfloat16":  # its kernels want it so
                network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            average = _average(network, self.recipe)
            optimizer = _optimizer(network, self.recipe)
            generator = torch.Generator().manual_seed(self.seed)
            curve: list[EpochResult] = []
            seconds = 0.0
            if state is not None:
                network.load_state_dict(state.weights)
                if average:
                    average.load_state_dict(state.average)
                optimizer.load_state_dict(state.optimizer)
                generator.set_state(state.generator)
                curve = [EpochResult(**point) for point in state.curve]
                seconds = state.seconds
            observer.started(len(curve), self.recipe.epochs, len(self.train))
            pixels = torch.from_numpy(self.train.pixels).to(device)
            labels = torch.from_numpy(self.train.labels).to(device)
            while len(curve) < self.recipe.epochs:
                start = time.perf_counter()
                curve.append(
                    self._epoch(
                        *(network, average, optimizer, generator),
                        *(pixels, labels, len(curve), observer),
                    )
                )
                seconds += time.perf_counter() - start
                Checkpoint(
                    fingerprint,
                    epoch=len(curve),
                    weights=network.state_dict(),
                    average=average.state_dict() if average else {},
                    optimizer=optimizer.state_dict(),
                    generator=generator.get_state(),
                    curve=[asdict(point) for point in curve],
                    seconds=seconds,
                ).save(path)
                observer.finished_epoch(curve[-1])
            result = fold(_result(network, average).cpu().eval())
        return Trained(result, curve, seconds)

    def _epoch(
        self,
        network: Network,
        average: AveragedModel | None,
        optimizer: torch.optim.Optimizer,
        generator: torch.Generator,
        pixels: Tensor,
        labels: Tensor,
        epoch: int,
        observer: Observer,
    ) -> EpochResult:
        recipe = self.recipe
        steps = len(labels) // recipe.batch_size
        order = torch.randperm(len(labels), generator=generator)
        start = time.perf_counter()
        loss_sum = torch.zeros((), device=pixels.device)
        right = torch.zeros((), device=pixels.device)
        network.train()
        gray = (torch.tensor(self.mean, device=pixels.device) * 255).round().to(torch.uint8)
        for step in range(steps):
            rows = order[step * recipe.batch_size : (step + 1) * recipe.batch_size]
            images = augment(pixels, rows, generator, flip=recipe.flip, shift=recipe.shift)
            if recipe.cutout:
                images = cut_out(images, generator, recipe.cutout, gray)
            target = labels[rows.to(labels.device)]
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(recipe, epoch * steps + step, recipe.epochs * steps)
            batch = _network_input(network, images, self.mean, self.std)
            if recipe.precision == "bfloat16":
                batch = batch.contiguous(memory_format=torch.channels_last)
            with torch.autocast(
                pixels.device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"
            ):
                scores = network(batch)
            scores = scores.float()
            loss = cross_entropy(scores, target, label_smoothing=recipe.label_smoothing)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            if average:
                average.update_parameters(network)
            loss_sum += loss.detach()
            right += (scores.detach().argmax(1) == target).float().mean()
            if (step + 1) % _REPORT_STEPS == 0 or step + 1 == steps:
                mean_loss, accuracy = loss_sum.item() / (step + 1), right.item() / (step + 1)
                # A sum that once held NaN or infinity keeps it: no step goes unseen.
                if not math.isfinite(mean_loss):
                    kept = (
                        f"the checkpoint of epoch {epoch} is kept" if epoch else "nothing is kept"
                    )
                    raise DivergedError(
                        f"the loss became {mean_loss} in epoch {epoch + 1} by step {step + 1}: "
                        f"expected a number; {kept}; lower the learning rate, "
                        f"{recipe.learning_rate:g}"
                    )
                observer.stepped((step + 1) * recipe.batch_size, mean_loss, accuracy)
        elapsed_s = time.perf_counter() - start
        result = _result(network, average).eval()
        held_out = evaluate(scores_of(result, self.mean, self.std), self.validation, self.labels)
        return EpochResult(
            epoch=epoch + 1,
            loss=mean_loss,
            train_accuracy=accuracy,
            validation_accuracy=held_out.top1,
            images_per_s=steps * recipe.batch_size / elapsed_s,
        )


def trained_network(architecture: Architecture, state: Checkpoint) -> Network:
    """What a checkpoint's training came to so far: on the CPU, in eval mode, folded.

    Raises:
        RuntimeError: The checkpoint's weights are not of this architecture.
    """
    recipe = Recipe(**state.fingerprint["recipe"])
    network = Network(architecture, batch_norm=recipe.batch_norm)
    network.load_state_dict(state.weights)
    average = _average(network, recipe)
    if average:
        average.load_state_dict(state.average)
    return fold(_result(network, average).eval())


def _average(network: Network, recipe: Recipe) -> AveragedModel | None:
    if not recipe.average:
        return None
    # Its statistics too: those of batch normalisation belong to the weights.
    decay = get_ema_multi_avg_fn(recipe.average)  # type: ignore[no-untyped-call]
    return AveragedModel(network, multi_avg_fn=decay, use_buffers=True)


def _result(network: Network, average: AveragedModel | None) -> Network:
    """The network that a training keeps."""
    return cast("Network", average.module) if average else network


def _optimizer(network: Network, recipe: Recipe) -> torch.optim.Optimizer:
    # Biases have one dimension; decaying them only shifts the activations.
    decayed = [weights for weights in network.parameters() if weights.dim() > 1]
    others = [weights for weights in network.parameters() if weights.dim() <= 1]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=recipe.learning_rate)
