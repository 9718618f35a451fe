"""A real worker process whose detector does what the colour of an image says, and which may die at one exact place.

Called by: benchmarks/faults_site.py, as a process, in the environment of `python -m worker predict`.
FAULT_CALL_S: seconds of a detect call. FAULT_FITS: images that fit its memory. FAULT_POPS=N, FAULT_ONCE=FILE: killed
between kombu's pop of the N-th message and its record as unacknowledged, once.
Example: `FAULT_CALL_S=0.02 python -m benchmarks.faults_worker`
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from kombu.transport.redis import QoS
from numpy.typing import NDArray

from benchmarks.sleeping import SleepingDetector
from contract.errors import OutOfDeviceMemory
from contract.settings import read_settings
from worker.__main__ import main
from worker.app import run_predict
from worker.detectors.base import Boxes

HARMLESS, POISON, HANG, RAISE = (0, 128, 0), (255, 0, 0), (0, 0, 255), (255, 255, 0)  # colours of a whole image
HANG_S = 3600.0


class FaultyDetector(SleepingDetector):
    """Sleeps like a GPU; kills its process at a red image, hangs at a blue one, raises at a yellow one, and has little
    memory if told so."""

    def __init__(self, call_s: float, fits: int) -> None:
        super().__init__(call_s=call_s, image_s=call_s / 10)
        self._fits = fits

    def detect(self, images: Sequence[NDArray[np.uint8]], prompts: tuple[str, ...], **options: Any) -> list[Boxes]:
        colours = {tuple(int(value) for value in image[0, 0]) for image in images}
        if len(images) > self._fits:
            raise OutOfDeviceMemory
        if POISON in colours:
            os.kill(os.getpid(), signal.SIGKILL)
        if HANG in colours:
            time.sleep(HANG_S)
        if RAISE in colours:
            raise ValueError("yellow is too much")
        return super().detect(images, prompts, **options)


def die_between_pop_and_record(pops: int, once: Path) -> None:
    """kombu records a popped message as unacknowledged in QoS.append: at the N-th one the process is gone before."""
    append, count = QoS.append, itertools.count(1)

    def append_or_die(self: QoS, message: object, delivery_tag: str) -> None:
        if next(count) == pops and not once.exists():
            once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        append(self, message, delivery_tag)

    QoS.append = append_or_die


def predict(*_: object) -> None:
    if pops := int(os.environ.get("FAULT_POPS", "0")):
        die_between_pop_and_record(pops, Path(os.environ["FAULT_ONCE"]))
    detector = FaultyDetector(float(os.environ.get("FAULT_CALL_S", "0.02")), int(os.environ.get("FAULT_FITS", "999")))
    run_predict(read_settings(), load=lambda version: detector)


if __name__ == "__main__":
    sys.exit(main(["predict"], {"predict": predict}))
