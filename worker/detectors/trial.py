"""Whether a kernel that nobody has measured here may be used: only where it is right, and faster than what it replaces.

Called by fast/gpu.py and deform_gpu.py. Must not import anything of ours; torch is its only dependency.
Every outcome is one line of the log.
Example: `kernel_wins("the Triton kernel", run_kernel, run_pytorch, exact=run_in_32_bits(), device=table.device)`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import torch
from torch import Tensor

ROUNDS = 5  #: of each; the fastest counts
#: For numbers around 1, whose sums may be taken in any order; in 16 bits the rounding of the result is added.
ATOL = 1e-4

Run = Callable[[], tuple[Tensor, ...]]


def kernel_wins(name: str, kernel: Run, pytorch: Run, exact: tuple[Tensor, ...], device: torch.device) -> bool:
    """Run both on one input and compare.

    Args:
        name: of the kernel, for the log.
        kernel, pytorch: each computes the same tensors.
        exact: what they should be, in 32 bits.
        device: where they run.

    Returns:
        True if the kernel's results are within ATOL plus the rounding of their type of the exact ones, and it took
        less time. False too if it raised anything: what fails here must fail no prediction and no training.
    """
    log = logging.getLogger(__name__)
    try:
        _compare(kernel(), exact)
        kernel_ms, pytorch_ms = _race(kernel, pytorch, device)
    except Exception as error:
        reason = (str(error).strip() or "no reason given").splitlines()[0]
        log.warning("%s is not used on %s: %s: %s", name, device, type(error).__name__, reason)
        return False
    won = kernel_ms < pytorch_ms
    verdict = "is used" if won else "is right but not used"
    log.info("%s %s on %s: %.3f ms, PyTorch %.3f ms", name, verdict, device, kernel_ms, pytorch_ms)
    return won


def _compare(found: tuple[Tensor, ...], exact: tuple[Tensor, ...]) -> None:
    problem = "its results differ from PyTorch's by more than rounding"
    for ours, theirs in zip(found, exact, strict=True):
        rounding = torch.finfo(ours.dtype).eps
        torch.testing.assert_close(ours.float(), theirs, atol=ATOL, rtol=rounding, msg=problem)


def _race(kernel: Run, pytorch: Run, device: torch.device) -> tuple[float, float]:
    """The shortest times in milliseconds, taken in turns, after one run of each that does not count."""
    pytorch()
    rounds = [(_time(kernel, device), _time(pytorch, device)) for _ in range(ROUNDS)]
    return min(first for first, _ in rounds), min(second for _, second in rounds)


def _time(run: Run, device: torch.device) -> float:
    """Milliseconds until the device has finished."""
    _wait(device)
    begin = time.perf_counter()
    run()
    _wait(device)
    return (time.perf_counter() - begin) * 1000


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
