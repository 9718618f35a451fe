"""How a GPU samples padded levels: by the Triton kernel where a trial finds it right and faster, else by PyTorch.

Called by sampling.py of this folder. Must not import mmdet.
The trial takes place once for each GPU, type of numbers and shape of attention, when an image first needs it: mostly
while the worker warms up. Triton comes with torch's CUDA builds; without it, or without the C compiler that it needs,
the log says so and PyTorch stays.
Example: `sample(grid, table, pixels, weights)`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from worker.detectors.trial import kernel_wins

if TYPE_CHECKING:
    from worker.detectors.fast.sampling import SamplingGrid

TRIAL_IMAGES, TRIAL_QUERIES = 2, 2048  #: together what the encoder samples at a time
BEYOND_CELLS = 2.0  #: how far outside of the levels points of the trial may lie

Sampler = Callable[["SamplingGrid", Tensor, Tensor, Tensor], Tensor]

_wins: dict[tuple[object, ...], bool] = {}


def by_triton(grid: SamplingGrid, table: Tensor, pixels: Tensor, weights: Tensor) -> Tensor:
    """As `SamplingGrid.sample`."""
    kernel = importlib.import_module("worker.detectors.fast.triton_kernel")
    return kernel.sample(table, pixels, weights, grid.last, grid.row_step, grid.first)


def sample(grid: SamplingGrid, table: Tensor, pixels: Tensor, weights: Tensor, kernel: Sampler = by_triton) -> Tensor:
    """As `SamplingGrid.sample`, by the kernel if it wins the trial."""
    attention = (kernel, table.device, table.dtype, table.shape[2], *weights.shape[2:])
    if attention not in _wins:
        _wins[attention] = _try_out(kernel, grid, table)
    if _wins[attention]:
        return kernel(grid, table, pixels, weights)
    return grid.sample_by_bags(table, pixels, weights)


def _try_out(kernel: Sampler, grid: SamplingGrid, like: Tensor) -> bool:
    """On a table as large and of the same type as `like`, whose border is random too."""
    places, device = len(grid.row_step), like.device
    random = torch.Generator(device).manual_seed(0)
    exact = torch.randn(TRIAL_IMAGES, *like.shape[1:], generator=random, device=device).to(like.dtype).float()
    table = exact.to(like.dtype)
    found = torch.rand(TRIAL_IMAGES, TRIAL_QUERIES, 3 * places, generator=random, device=device)
    weights = found[..., 2 * places :].unflatten(-1, (grid.heads, -1)).softmax(-1)

    def pixels() -> Tensor:
        """New ones for each run, since samplers may overwrite them; between other numbers, as in the encoder."""
        fractions = found.clone()[..., : 2 * places].unflatten(-1, (2, places))
        return fractions.mul_(grid.last + 2 * BEYOND_CELLS).sub_(BEYOND_CELLS)

    return kernel_wins(
        "the Triton kernel for sampling",
        lambda: (kernel(grid, table, pixels(), weights),),
        lambda: (grid.sample_by_bags(table, pixels(), weights),),
        exact=(grid.sample_by_bags(exact, pixels(), weights),),
        device=device,
    )
