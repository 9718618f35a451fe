"""One training in several processes of this host, a GPU each (on a CPU: gloo processes), started by torchrun.

Called by worker/train.py with processes > 1; torchrun runs this module in each process.
Must not import backend or groundcrew; torch and mmdet only in the processes that train.
The parent passes on progress, cancels, and starts again with smaller chunks when memory runs out: files in `work_dir`
carry the request down and a failure up, lines on standard output the progress.
Example: `train_in_processes(base, data, work_dir, options, report=print, cancelled=lambda: False, device="auto")`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from contract.errors import GroundcrewError, JobCancelled, ModelError, OutOfDeviceMemory
from worker.detectors.base import ModelSource
from worker.orphans import end_with_parent
from worker.training.options import Progress, TrainOptions
from worker.training.samples import TrainingData, read_samples, write_samples

REQUEST_FILE, SAMPLES_FILE, FAILURE_FILE = "request.json", "samples.json", "failure.json"
MEETING_FILE, PROCESSES_FILE = "torchrun.store", "processes.store"  #: where the processes of one start find each other
PROGRESS_MARK = "@progress "
POLL_S = 0.5  #: how often the parent asks whether it is cancelled
STOP_S = 5.0  #: torchrun gets so long to end its processes
LOG_LINES = 20  #: of the last output, for the message of a process that died without a word


class TrainingProcessFailed(ModelError):
    """A process of a parallel training ended with an error."""

    code = "training_failed"


def train_in_processes(
    base: ModelSource,
    data: TrainingData,
    work_dir: Path,
    options: TrainOptions,
    *,
    report: Callable[[Progress], None],
    cancelled: Callable[[], bool],
    device: str,
) -> Path:
    """See `worker.train.train`."""
    write_samples(work_dir / SAMPLES_FILE, data)
    while True:
        write_request(work_dir, base, options, device)
        try:
            _run(work_dir, options.processes, report, cancelled)
        except OutOfDeviceMemory:
            if options.batch_size == 1:
                raise
            # Chunks hold one image each already; only a smaller batch is left. It goes on from the last checkpoint.
            options = dataclasses.replace(options, batch_size=options.batch_size // 2)
        else:
            return work_dir / "version"


def write_request(work_dir: Path, base: ModelSource, options: TrainOptions, device: str) -> None:
    """What every process must know."""
    paths = {name: str(value) if isinstance(value, Path) else value for name, value in vars(base).items()}
    request = {"base": paths, "options": dataclasses.asdict(options), "device": device}
    (work_dir / REQUEST_FILE).write_text(json.dumps(request))
    (work_dir / FAILURE_FILE).unlink(missing_ok=True)


def read_request(work_dir: Path) -> tuple[ModelSource, TrainOptions, str]:
    """The base, the options and the device."""
    request = json.loads((work_dir / REQUEST_FILE).read_text())
    base = request["base"]
    for name in ("checkpoint", "lang_model"):
        base[name] = Path(base[name]) if base[name] else None
    options = {name: tuple(value) if isinstance(value, list) else value for name, value in request["options"].items()}
    return ModelSource(**base), TrainOptions(**options), request["device"]


def _run(work_dir: Path, processes: int, report: Callable[[Progress], None], cancelled: Callable[[], bool]) -> None:
    for name in (MEETING_FILE, PROCESSES_FILE):  # of an earlier start
        (work_dir / name).unlink(missing_ok=True)
    # torchrun's own meeting point, a TCPStore, listens on every interface. A file does not, and one host needs no more.
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "1", "--nproc-per-node", str(processes),
               "--rdzv-backend", "c10d", "--rdzv-id", "groundcrew", "--rdzv-endpoint", str(work_dir / MEETING_FILE),
               "--rdzv-conf", "store_type=file"]  # fmt: skip
    environment = {"OMP_NUM_THREADS": "1", **os.environ, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    for library in ("GLOO", "NCCL"):
        environment.setdefault(f"{library}_SOCKET_IFNAME", "lo")
    root = Path(__file__).resolve().parents[2]
    environment["PYTHONPATH"] = os.pathsep.join([str(root), *filter(None, [environment.get("PYTHONPATH")])])
    with subprocess.Popen(
        [*command, "-m", "worker.training.parallel", str(work_dir)],
        stdin=subprocess.PIPE,  # see worker.orphans
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        start_new_session=True,  # so that all of its processes can be ended together
    ) as process:
        lines = _read_lines(process)
        try:
            last = list(_follow(lines, report, cancelled))
        except BaseException:
            _stop(process)
            raise
    if process.returncode:
        raise _read_failure(work_dir, last[-LOG_LINES:])


def _read_lines(process: subprocess.Popen[str]) -> queue.Queue[str | None]:
    """Its output, read by a thread so that the parent can look at the cancel flag in between; None at the end."""
    lines: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, name="training-output", daemon=True).start()
    return lines


def _follow(
    lines: queue.Queue[str | None], report: Callable[[Progress], None], cancelled: Callable[[], bool]
) -> Iterator[str]:
    """Hand on progress, give back all other lines, until the output ends."""
    while True:
        if cancelled():
            raise JobCancelled("The training was cancelled.")
        try:
            line = lines.get(timeout=POLL_S)
        except queue.Empty:
            continue
        if line is None:
            return
        if line.startswith(PROGRESS_MARK):
            report(Progress(**json.loads(line.removeprefix(PROGRESS_MARK))))
        else:
            yield line


def _stop(process: subprocess.Popen[str]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)


def _read_failure(work_dir: Path, last_lines: list[str]) -> GroundcrewError:
    path = work_dir / FAILURE_FILE
    if not path.is_file():
        return TrainingProcessFailed(f"A training process died. Its last words: {''.join(last_lines).strip()}")
    failure = json.loads(path.read_text())
    if failure["code"] == OutOfDeviceMemory.code:
        return OutOfDeviceMemory(failure["message"])
    return TrainingProcessFailed(failure["message"])


def main() -> None:
    """In each process that torchrun started."""
    import torch
    import torch.distributed

    end_with_parent()
    work_dir = Path(sys.argv[1])
    base, options, device = read_request(work_dir)
    rank, processes = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    on_gpu = device != "cpu" and torch.cuda.is_available()
    torch.distributed.init_process_group(
        "nccl" if on_gpu else "gloo", init_method=f"file://{work_dir.resolve() / PROCESSES_FILE}", rank=rank,
        world_size=processes,
    )  # fmt: skip
    try:
        from worker.training.run import Run

        place = f"cuda:{rank}" if on_gpu else "cpu"
        run = Run(base, read_samples(work_dir / SAMPLES_FILE), work_dir, options, place)
        run.train(_print_progress if rank == 0 else lambda progress: None, cancelled=lambda: False)
        # The first process still writes the version: a peer that leaves now closes gloo's connections under it, which
        # aborts one of them (SIGABRT, seen once in five runs).
        torch.distributed.barrier()
    except Exception as error:  # the parent cannot see it
        write_failure(work_dir, error)
        raise
    finally:
        torch.distributed.destroy_process_group()


def write_failure(work_dir: Path, error: Exception) -> None:
    """What the parent raises; the first process that fails is the cause, the others only miss it."""
    message = error.message if isinstance(error, GroundcrewError) else f"{type(error).__name__}: {error}"
    code = error.code if isinstance(error, GroundcrewError) else TrainingProcessFailed.code
    with contextlib.suppress(FileExistsError), (work_dir / FAILURE_FILE).open("x") as file:
        json.dump({"code": code, "message": message}, file)


def _print_progress(progress: Progress) -> None:
    print(PROGRESS_MARK + json.dumps(dataclasses.asdict(progress)), flush=True)


if __name__ == "__main__":
    main()
