"""The NVIDIA GPUs that this process can see, from the driver, without starting CUDA.

Called by: worker.gpu_lease, worker.app (memory in heartbeats). Must not import: torch, which would start CUDA.
In a container it lists only the GPUs that the container was given. A GPU split by MIG counts as its slices.
Example: `list_gpus()` -> [Gpu(uuid="GPU-5d2f...", name="NVIDIA H100", free_bytes=84_000_000_000, total_bytes=...)]
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import pynvml


class Gpu(NamedTuple):
    """One device as CUDA_VISIBLE_DEVICES can name it."""

    uuid: str
    name: str
    free_bytes: int
    total_bytes: int


def list_gpus() -> list[Gpu]:
    """Empty where there is no NVIDIA driver, or the package nvidia-ml-py is absent."""
    try:
        import pynvml
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:  # no driver on this machine, or none in this container
        return []
    try:
        return [_as_gpu(handle) for handle in _handles()]
    finally:
        pynvml.nvmlShutdown()


def _handles() -> Iterator[pynvml.c_nvmlDevice_t]:
    import pynvml

    for index in range(pynvml.nvmlDeviceGetCount()):
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        slices = list(_slices(handle))
        yield from slices or [handle]


def _slices(handle: pynvml.c_nvmlDevice_t) -> Iterator[pynvml.c_nvmlDevice_t]:
    """The MIG devices of a GPU that is split; none where it is not, or cannot be."""
    import pynvml

    try:
        enabled, _ = pynvml.nvmlDeviceGetMigMode(handle)
    except pynvml.NVMLError_NotSupported:
        return
    for index in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle) if enabled else 0):
        try:
            yield pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
        except pynvml.NVMLError_NotFound:  # fewer slices than the most there could be
            return


def _as_gpu(handle: pynvml.c_nvmlDevice_t) -> Gpu:
    import pynvml

    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    uuid, name = pynvml.nvmlDeviceGetUUID(handle), pynvml.nvmlDeviceGetName(handle)
    return Gpu(str(uuid), str(name), int(memory.free), int(memory.total))
