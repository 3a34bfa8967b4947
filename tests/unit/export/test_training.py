import dataclasses
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from support.tiny_cifar import FULL, QUICK, SMALL, Recorder, pictures

from convscope_export.checkpoint import CheckpointMismatchError, load
from convscope_export.cifar10 import LABELS
from convscope_export.evaluation import evaluate
from convscope_export.layers import PoolMethod
from convscope_export.network import Network, he_initialize, resize
from convscope_export.notation import parse
from convscope_export.recipe import Recipe
from convscope_export.training import (
    DivergedError,
    Trained,
    Training,
    TrainingError,
    learning_rate,
    scores_of,
    trained_network,
)

TRAINING = Training(
    architecture=SMALL,
    recipe=QUICK,
    seed=7,
    train=pictures(430, side=8, seed=1),
    validation=pictures(100, side=8, seed=2),
    labels=LABELS,
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
    data_sha256="0" * 64,
)


def weights(trained: Trained) -> dict[str, torch.Tensor]:
    return dict(trained.network.state_dict())


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


RECIPES = pytest.mark.parametrize("recipe", [QUICK, FULL], ids=["quick", "full"])


def test_learns_and_tells_how_it_goes(tmp_path: Path) -> None:
    recorder = Recorder()
    trained = TRAINING.run(tmp_path / "checkpoint.pt", recorder)
    assert recorder.starts == [(0, 3, 430)]
    # 430 images are 21 batches of 20: the loss is looked at after 20 and at the end.
    assert [images for images, _, _ in recorder.steps] == [400, 420] * 3
    assert recorder.epochs == trained.curve
    assert [point.epoch for point in trained.curve] == [1, 2, 3]
    assert trained.curve[-1].loss < trained.curve[0].loss
    assert trained.curve[-1].validation_accuracy > 0.9
    assert 0 <= trained.curve[0].train_accuracy < trained.curve[-1].train_accuracy <= 1
    assert trained.seconds > 0
    assert not trained.network.training


@RECIPES
def test_a_training_that_was_stopped_ends_with_the_same_bits(
    tmp_path: Path, recipe: Recipe
) -> None:
    training = dataclasses.replace(TRAINING, recipe=recipe)
    whole = training.run(tmp_path / "whole.pt", Recorder())
    for epoch in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            training.run(tmp_path / "stopped.pt", Recorder(stop_after=epoch))
        assert load(tmp_path / "stopped.pt").epoch == epoch
    recorder = Recorder()
    resumed = training.run(tmp_path / "stopped.pt", recorder)
    assert recorder.starts == [(2, 3, 430)]
    assert same(weights(resumed), weights(whole))
    assert [(p.loss, p.validation_accuracy) for p in resumed.curve] == [
        (p.loss, p.validation_accuracy) for p in whole.curve
    ]


def test_what_a_full_recipe_trains_is_the_plain_network(tmp_path: Path) -> None:
    """The average of the weights, with batch normalisation folded into the convolutions."""
    path = tmp_path / "checkpoint.pt"
    trained = dataclasses.replace(TRAINING, recipe=FULL).run(path, Recorder())
    assert set(weights(trained)) == set(Network(SMALL).state_dict())
    state = load(path)
    again = trained_network(SMALL, state)
    assert same(weights(trained), dict(again.state_dict()))
    unfolded = Network(SMALL, batch_norm=True).eval()
    average = {
        name.removeprefix("module."): value
        for name, value in state.average.items()
        if name.startswith("module.")
    }
    assert not same(average, state.weights)
    unfolded.load_state_dict(average)
    x = torch.randn(5, 3, 8, 8)
    torch.testing.assert_close(again(x), unfolded(x), rtol=1e-4, atol=1e-5)
    assert trained.curve[-1].validation_accuracy > 0.3


def test_the_average_of_the_weights_is_exponential(tmp_path: Path) -> None:
    """After k steps it is a polynomial in its decay, of degree k - 1: here w1 d + w2 (1 - d)."""
    two_steps = dataclasses.replace(TRAINING, train=TRAINING.train[:40])
    averages = []
    for decay in (0.25, 0.5, 0.75):
        path = tmp_path / f"{decay}.pt"
        recipe = dataclasses.replace(FULL, epochs=1, average=decay)
        dataclasses.replace(two_steps, recipe=recipe).run(path, Recorder())
        averages.append((state := load(path)).average)
    quarter, half, three_quarters = averages
    for name, last in state.weights.items():
        if not last.is_floating_point():
            continue  # the count of batches
        # Statistics of batch normalisation are averaged too: they belong to the weights.
        at_half, at_quarter = half[f"module.{name}"], quarter[f"module.{name}"]
        torch.testing.assert_close(at_quarter, (at_half + last) / 2, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(
            three_quarters[f"module.{name}"], 2 * at_half - at_quarter, rtol=1e-5, atol=1e-6
        )
        assert not torch.equal(at_half, last), name


def test_the_curve_tells_the_accuracy_of_the_network_that_is_kept(tmp_path: Path) -> None:
    trained = dataclasses.replace(TRAINING, recipe=FULL).run(tmp_path / "full.pt", Recorder())
    scores = scores_of(trained.network, TRAINING.mean, TRAINING.std)
    found = evaluate(scores, TRAINING.validation, LABELS).top1
    assert found == trained.curve[-1].validation_accuracy


def test_the_seed_decides_the_weights_and_nothing_else_does(tmp_path: Path) -> None:
    torch.manual_seed(1)
    first = TRAINING.run(tmp_path / "first.pt", Recorder())
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second = TRAINING.run(tmp_path / "second.pt", Recorder())
    assert torch.equal(torch.get_rng_state(), before)
    other = dataclasses.replace(TRAINING, seed=8).run(tmp_path / "other.pt", Recorder())
    assert same(weights(first), weights(second))
    assert not same(weights(first), weights(other))
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_finished_training_is_not_trained_further(tmp_path: Path) -> None:
    first = TRAINING.run(tmp_path / "checkpoint.pt", Recorder())
    recorder = Recorder()
    again = TRAINING.run(tmp_path / "checkpoint.pt", recorder)
    assert recorder.starts == [(3, 3, 430)]
    assert recorder.epochs == []
    assert same(weights(first), weights(again))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 8}, "seed: expected 8, got 7"),
        ({"data_sha256": "f" * 64}, "data: expected ffff"),
        ({"recipe": dataclasses.replace(QUICK, shift=0)}, "recipe: expected .*'shift': 0"),
        ({"train": TRAINING.train[:400]}, "train images: expected 400, got 430"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused(
    change: dict[str, object], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(KeyboardInterrupt):
        TRAINING.run(path, Recorder(stop_after=1))
    before = path.read_bytes()
    with pytest.raises(CheckpointMismatchError, match=message):
        dataclasses.replace(TRAINING, **change).run(path, Recorder())  # type: ignore[arg-type]
    assert path.read_bytes() == before


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    wild = dataclasses.replace(TRAINING, recipe=dataclasses.replace(QUICK, learning_rate=1e36))
    with pytest.raises(DivergedError, match=r"the loss became (nan|inf) in epoch 1 .* nothing is"):
        wild.run(path, Recorder())
    assert not path.exists()

    with pytest.raises(KeyboardInterrupt):
        TRAINING.run(path, Recorder(stop_after=2))
    good = load(path)
    # The same checkpoint with weights so large that the next epoch overflows.
    huge = {name: tensor * 1e30 for name, tensor in good.weights.items()}
    dataclasses.replace(good, weights=huge).save(path)
    before = path.read_bytes()
    with pytest.raises(
        DivergedError, match=r"in epoch 3 .* the checkpoint of epoch 2 is kept; lower"
    ):
        TRAINING.run(path, Recorder())
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_learning_rate_rises_to_its_peak_and_falls_to_zero() -> None:
    recipe = dataclasses.replace(QUICK, learning_rate=2.0, warmup=0.2)
    rates = [learning_rate(recipe, step, 100) for step in range(100)]
    assert rates.index(max(rates)) == 20
    assert rates[20] == 2.0
    assert rates[:21] == sorted(rates[:21])
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert 0 < rates[0] < 0.1
    assert 0 < rates[-1] < 0.03
    assert learning_rate(dataclasses.replace(recipe, warmup=0.0), 0, 100) == 2.0


def test_fewer_images_than_a_batch_are_an_error(tmp_path: Path) -> None:
    few = dataclasses.replace(TRAINING, train=TRAINING.train[:19])
    with pytest.raises(TrainingError, match=r"expected at least a batch of 20 .*, got 19"):
        few.run(tmp_path / "checkpoint.pt", Recorder())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="expected a CUDA device, torch sees none"):
        TRAINING.run(tmp_path / "checkpoint.pt", Recorder(), device="cuda")


def test_one_step_lowers_the_loss_on_its_own_batch(tmp_path: Path) -> None:
    batch = dataclasses.replace(
        TRAINING,
        train=TRAINING.train[:20],
        recipe=dataclasses.replace(QUICK, epochs=10, flip=False, shift=0, learning_rate=1e-3),
    )
    curve = batch.run(tmp_path / "checkpoint.pt", Recorder()).curve
    losses = [point.loss for point in curve]
    assert losses == sorted(losses, reverse=True)


def test_small_pictures_train_a_network_for_larger_ones(tmp_path: Path) -> None:
    text = "INPUT(16x16x3) -> [CONV(4, 3x3) -> RELU -> POOL(l2, 4x4)]*2 -> FC(10)"
    training = dataclasses.replace(TRAINING, architecture=parse(text))
    trained = training.run(tmp_path / "checkpoint.pt", Recorder())
    assert trained.curve[-1].loss < trained.curve[0].loss
    scores = scores_of(trained.network, training.mean, training.std)
    larger = resize(torch.from_numpy(training.validation.pixels), 16, 16).numpy()
    np.testing.assert_allclose(scores(training.validation.pixels), scores(larger), atol=1e-5)


def test_the_recipe_says_where_the_weights_start(tmp_path: Path) -> None:
    he = dataclasses.replace(QUICK, initialization="he", epochs=1, learning_rate=1e-9)
    trained = dataclasses.replace(TRAINING, recipe=he).run(tmp_path / "he.pt", Recorder())
    torch.manual_seed(TRAINING.seed)
    expected = Network(SMALL)
    he_initialize(expected)
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(weights(trained)[name], value, atol=1e-6, rtol=0)


@pytest.mark.parametrize("method", get_args(PoolMethod))
def test_every_pool_lets_a_network_learn(method: str, tmp_path: Path) -> None:
    text = f"INPUT(8x8x3) -> CONV(8, 3x3) -> RELU -> POOL({method}, 2x2) -> FC(10)"
    trained = dataclasses.replace(TRAINING, architecture=parse(text)).run(
        tmp_path / "checkpoint.pt", Recorder()
    )
    assert trained.curve[-1].validation_accuracy > 0.9
