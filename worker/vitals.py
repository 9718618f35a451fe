"""What a prediction worker says of itself with each heartbeat: images done, a running detect call, its GPU's memory.

Called by: worker.app. Must not import: torch.
Example: `vitals(models, gpu_lease)` -> {"images": 512, "busy_s": 0.2, "models": ["tiny-shapes-1"]}
"""

from __future__ import annotations

from contract.meters import IMAGES, TALLY
from worker.gpu_lease import GpuLease
from worker.gpus import list_gpus
from worker.models import Models


def vitals(models: Models, lease: GpuLease | None) -> dict[str, object]:
    """JSON types. Memory is what the driver says: of all processes on the GPU."""
    return {
        "images": TALLY.total(IMAGES.name),
        "busy_s": round(models.batcher.busy_for_s(), 3),
        "models": models.loaded(),
        **(_gpu(lease) if lease is not None else {}),
    }


def _gpu(lease: GpuLease) -> dict[str, object]:
    (gpu,) = lease.gpus
    used_bytes = sum(now.total_bytes - now.free_bytes for now in list_gpus() if now.uuid == gpu.uuid)
    return {"gpu": gpu.uuid, "device_memory_bytes": gpu.total_bytes, "device_memory_used_bytes": used_bytes}
