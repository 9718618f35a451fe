"""Two rows of the table of faults against a real Label Studio, where the rows have a fake that can fail to the instant.

Called by: pytest. Real Redis, API, writer, worker and Label Studio; only the detector sleeps instead of looking.
Must not import: torch.
Example: pytest tests/services/test_faults_label_studio.py
"""

from __future__ import annotations

import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from benchmarks.faults_site import Site, label_config
from contract.jobs import WRITE_QUEUE
from groundcrew.child import free_port
from groundcrew.label_studio.client import LabelStudioClient
from groundcrew.label_studio.login import make_access_token
from groundcrew.label_studio.server import ADMIN_EMAIL, ADMIN_PASSWORD, LabelStudioServer
from tests.fakes.images import plain_image
from tests.services.waiting import wait_until

TASKS = 120
HARMLESS = "green"  #: as benchmarks/faults_worker.py reads colours; red would kill it
FIRST = TASKS // 10  #: tasks of the first retrieval
SETTLE_S = 240.0  #: for what is looked at again later, on a busy machine
LABELS = label_config("red circle", "blue square")


def start_site(folder: Path, label_studio: LabelStudioClient, token: str, writers: int) -> Site:
    """A crew of processes that writes to this Label Studio."""
    settings = {"LABEL_STUDIO_URL": label_studio.url, "LABEL_STUDIO_API_KEY": token, "PREDICT_NEW_TASKS": "false"}
    return Site.start(folder, writers=writers, settings=settings, worker_env={"FAULT_CALL_S": "0.2"})


def ask_for(label_studio: LabelStudioClient, project: int, numbers: range) -> None:
    """One retrieval of as many new tasks, once the project is connected."""
    label_studio.upload_images(project, [plain_image(f"{n}.png", colour=HARMLESS) for n in numbers])
    label_studio.retrieve_predictions(project)


def assert_each_has_one(label_studio: LabelStudioClient, project: int, site: Site) -> None:
    """Once nothing is under way any more that could add another one."""
    wait_until(site.is_settled, "everything to settle", site.log_tails, deadline_s=SETTLE_S)
    stored = Counter(prediction.task for prediction in label_studio.predictions(project))
    counts = {task: stored[task] for task in label_studio.image_names(project)}
    assert {task: count for task, count in counts.items() if count != 1} == {}, site.log_tails()
    assert len(counts) == TASKS


def test_a_writer_killed_between_post_and_mark_loses_and_doubles_nothing(
    label_studio: LabelStudioClient, label_studio_token: str, make_project: Callable[[str], int], tmp_path: Path
) -> None:
    # given a writer that will be killed once Label Studio has stored what it posted
    project, once = make_project(LABELS), tmp_path / "once"
    with start_site(tmp_path / "site", label_studio, label_studio_token, writers=0) as site:
        site.start_part("writer 1", [sys.executable, "-m", "tests.fakes.dying_writer"], {"DIE_ONCE": str(once)})

        # when
        label_studio.connect_backend(project, site.url, title="groundcrew")
        ask_for(label_studio, project, range(TASKS))
        wait_until(once.exists, "the death", site.log_tails)

        # then the next writer looks before it writes
        assert_each_has_one(label_studio, project, site)


def test_a_label_studio_that_is_restarted_in_the_middle_has_each_prediction_once(
    label_studio_venv: Path, tmp_path: Path
) -> None:
    # given a Label Studio of its own, with some predictions of many, and a writer that is about to store more
    place = {"venv_dir": label_studio_venv, "data_dir": tmp_path / "label-studio", "port": free_port()}
    with LabelStudioServer.start(**place, say=print) as first:
        token = make_access_token(first.url, ADMIN_EMAIL, ADMIN_PASSWORD)
        label_studio = LabelStudioClient(first.url, token)
        project = label_studio.create_project("restarted", LABELS)
        site = start_site(tmp_path / "site", label_studio, token, writers=1)
        with site:
            label_studio.connect_backend(project, site.url, title="groundcrew")
            ask_for(label_studio, project, range(FIRST))
            wait_until(lambda: len(label_studio.predictions(project)) == FIRST, "the first", site.log_tails)
            site.kill("worker 1", signal.SIGSTOP)
            ask_for(label_studio, project, range(FIRST, TASKS))
            wait_until(lambda: site.records.counts(project)["queued"] == TASKS - FIRST, "the jobs", site.log_tails)
            site.kill("writer 1", signal.SIGSTOP)  # so that it has something to store, however slow this machine is
            site.kill("worker 1", signal.SIGCONT)
            wait_until(lambda: site.client.llen(WRITE_QUEUE) > 0, "more predictions", site.log_tails)

            # when it is stopped, and started again
            first.stop()
            site.kill("writer 1", signal.SIGCONT)
            wait_until(lambda: site.logged("writer 1", "will be stored later"), "a failed write", site.log_tails)
            with LabelStudioServer.start(**place, say=print) as again:
                assert again.url == first.url

                # then
                assert_each_has_one(label_studio, project, site)
