"""In which type a model computes: what PRECISION means on this machine.

Called by `mmgdino.load` and benchmarks. Must not import backend, groundcrew or other detectors.
16 bits pay only where the processor multiplies them in hardware; elsewhere PyTorch converts back and forth.
Example: `choose_dtype("auto", torch.device("cpu"))` is bfloat16 on a Xeon with AMX, else float32.
"""

from __future__ import annotations

import torch

from contract.errors import SettingsError

#: What x86 processors call units that multiply bfloat16 (AMX tiles, AVX-512 BF16), and the name of Arm's
BFLOAT16_UNITS = ("amx_bf16", "avx512_bf16", "bf16")


def choose_dtype(precision: str, device: torch.device) -> torch.dtype:
    """float32 or bfloat16.

    Args:
        precision: "auto", "fp32" or "bf16".
        device: where the model will run.

    Raises:
        SettingsError: another word; bf16 asked for where nothing multiplies it.
    """
    if precision not in {"auto", "fp32", "bf16"}:
        raise SettingsError(f"PRECISION {precision!r} is not one of auto, fp32, bf16.")
    if precision == "fp32" or (precision == "auto" and not has_bfloat16(device)):
        return torch.float32
    if not has_bfloat16(device):
        raise SettingsError(f"PRECISION bf16 would be slow: {device} has no units for it. Set auto or fp32.")
    return torch.bfloat16


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    found = torch.cpu.get_capabilities()
    return any(found.get(name) for name in BFLOAT16_UNITS)
