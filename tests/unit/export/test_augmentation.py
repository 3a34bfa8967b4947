import pytest
import torch

from convscope_export.augmentation import augment, cut_out

PIXELS = torch.arange(2 * 3 * 4 * 5, dtype=torch.uint8).reshape(2, 3, 4, 5)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_without_moves_the_chosen_images_come_back() -> None:
    found = augment(PIXELS, torch.tensor([1, 0, 1]), generator(), flip=False, shift=0)
    assert torch.equal(found, PIXELS[[1, 0, 1]])


def test_flips_half_of_the_images_whole() -> None:
    found = augment(PIXELS, torch.zeros(1000, dtype=torch.int64), generator(), flip=True, shift=0)
    mirrored = (found == PIXELS[0].flip(2)).flatten(1).all(1)
    straight = (found == PIXELS[0]).flatten(1).all(1)
    assert torch.all(mirrored ^ straight)
    assert 400 < int(mirrored.sum()) < 600


def test_moves_reflect_the_border_and_cover_every_offset() -> None:
    found = augment(PIXELS, torch.zeros(900, dtype=torch.int64), generator(), flip=False, shift=1)
    padded = torch.nn.functional.pad(PIXELS[:1].float(), (1, 1, 1, 1), mode="reflect").byte()[0]
    windows = [padded[:, y : y + 4, x : x + 5] for y in range(3) for x in range(3)]
    counts = [int((found == window).flatten(1).all(1).sum()) for window in windows]
    assert sum(counts) == 900
    assert min(counts) > 60


@pytest.mark.parametrize("flip", [False, True])
def test_the_same_generator_state_gives_the_same_images(flip: bool) -> None:
    rows = torch.zeros(20, dtype=torch.int64)
    first, second = (augment(PIXELS, rows, generator(), flip=flip, shift=1) for _ in range(2))
    assert torch.equal(first, second)


def test_a_square_of_one_colour_is_cut_out_around_any_pixel() -> None:
    images = torch.full((2000, 3, 4, 5), 9, dtype=torch.uint8)
    color = torch.tensor([1, 2, 3], dtype=torch.uint8)
    found = cut_out(images, generator(), 3, color)
    changed = (found != images).any(1)
    assert torch.all(found[:, :, 0, 0][changed[:, 0, 0]] == color)
    assert set(changed.flatten(1).sum(1).tolist()) == {4, 6, 9}  # at a corner, at a side, inside
    rows, columns = changed.any(2), changed.any(1)
    assert torch.equal(changed, rows[:, :, None] & columns[:, None, :])
    assert torch.equal(cut_out(images, generator(), 3, color), found)
