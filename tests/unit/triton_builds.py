"""Kernels of a module, run by Triton's interpreter or built by its compiler: neither needs a GPU.

Called by the tests of the kernels. Must not import anything of ours.
Triton decides when a module is imported which of the two it is for, so each use imports a copy of its own.
Example: `build(compiled("worker.detectors.deform_triton")._forward, 90, types, constants)`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from types import ModuleType

import pytest
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.compiler.compiler import CompiledKernel
from triton.runtime.jit import JITFunction


def interpreted(name: str) -> ModuleType:
    return _copy(name, interpret="1")


def compiled(name: str) -> ModuleType:
    return _copy(name, interpret="0")


def _copy(name: str, interpret: str) -> ModuleType:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", interpret)
        spec.loader.exec_module(module)
    return module


def build(
    kernel: JITFunction, capability: int, types: Mapping[str, str], constants: Mapping[str, int]
) -> CompiledKernel:
    """As Triton would at first use: pointers of tensors are multiples of 16 bytes, which changes what is compiled.

    Args:
        kernel: of a `compiled` module.
        capability: of the GPU, 90 for 9.0.
        types: by name of argument; those without one are 32-bit numbers.
        constants: values of the kernel's constexpr arguments.
    """
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in names}
    places = {(names.index(name),): value for name, value in constants.items()}
    aligned = {(names.index(name),): [["tt.divisibility", 16]] for name in types if name in names}
    source = ASTSource(kernel, signature, places, aligned)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32))
