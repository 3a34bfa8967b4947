"""Random mirroring, translation and cutting out of training images, on tensors."""

import torch
from torch import Tensor


def augment(
    pixels: Tensor, rows: Tensor, generator: torch.Generator, *, flip: bool, shift: int
) -> Tensor:
    """Copies of some images, each mirrored and moved at random.

    Args:
        pixels: All images, uint8, shape (N, C, H, W).
        rows: Which of them, int64, shape (B,), on the CPU.
        generator: CPU generator that every draw comes from.
        flip: Mirror left to right with probability 1/2.
        shift: Largest move in pixels, below H and W; each move in -shift..shift is as
            likely as the next. What comes into view is the border, reflected.

    Returns:
        uint8, shape (B, C, H, W), on the device of `pixels`.
    """
    count, (channels, height, width) = len(rows), pixels.shape[1:]
    mirrored = torch.rand(count, generator=generator) < (0.5 if flip else 0.0)
    moves = torch.randint(-shift, shift + 1, (2, count, 1), generator=generator)
    y = _reflected(torch.arange(height) + moves[0], height)
    x = _reflected(torch.arange(width) + moves[1], width)
    x = torch.where(mirrored[:, None], width - 1 - x, x)
    # One gather does the choice, the move and the mirror: no padded or intermediate copies.
    device = pixels.device
    return pixels[
        rows.to(device)[:, None, None, None],
        torch.arange(channels, device=device)[None, :, None, None],
        y.to(device)[:, None, :, None],
        x.to(device)[:, None, None, :],
    ]


def _reflected(index: Tensor, size: int) -> Tensor:
    """Indices outside 0..size-1 mirrored at the border pixel, which is not repeated."""
    index = index.abs()
    return torch.where(index >= size, 2 * (size - 1) - index, index)


def cut_out(images: Tensor, generator: torch.Generator, side: int, color: Tensor) -> Tensor:
    """Copies of images with a square in one colour; what of it lies outside is not seen.

    Args:
        images: uint8, shape (B, C, H, W).
        generator: CPU generator that every draw comes from.
        side: Of the square, in pixels. Its centre is any pixel, each as likely.
        color: uint8, shape (C,).

    Returns:
        uint8, shape (B, C, H, W).
    """
    count, _, height, width = images.shape
    inside = []
    for size in (height, width):
        first = torch.randint(0, size, (count, 1), generator=generator) - side // 2
        pixel = torch.arange(size)
        inside.append(((pixel >= first) & (pixel < first + side)).to(images.device))
    square = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return torch.where(square, color.view(1, -1, 1, 1), images)
