"""The demo from start to end: Label Studio, crew, project, connection, images, boxes, check, picture.

Called by: groundcrew/cli.py.
Must not import: backend, worker.
Example: exit_code = run_demo(once=True, out_dir=Path("demo/out"))
"""

import signal
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TextIO

from contract.errors import GroundcrewError
from groundcrew.crew import Crew
from groundcrew.demo.report import Report, judge
from groundcrew.demo.scenes import DemoImage, make_images, make_label_config
from groundcrew.label_studio.client import LabelStudioClient
from groundcrew.label_studio.login import make_access_token
from groundcrew.label_studio.server import ADMIN_EMAIL, ADMIN_PASSWORD, LabelStudioServer

IMAGES = 24
LABEL_STUDIO_VENV = Path(".venv-label-studio")
#: For all images together; a slow machine needs a second an image.
BOXES_DEADLINE_S = 300.0


class DemoFailed(GroundcrewError):
    """The demo did not get where it should; the message says how far it got."""

    code = "demo_failed"


def run_demo(*, once: bool, out_dir: Path, steps: TextIO = sys.stdout) -> int:
    """Runs it and prints the report as the last line. Returns 0 when every image has one prediction and recall is good.

    `steps` is told what happens. Without `once` it stays up until Ctrl-C, so that a person can look around.
    Raises GroundcrewError with a sentence.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # else nothing would stop the servers
    with TemporaryDirectory(prefix="groundcrew-demo-") as folder, ExitStack() as servers:
        demo = _Demo(Path(folder), servers, steps)
        report = demo.run(out_dir / "overview.png", stop_crew=once)
        if not once:
            demo.stay_up(report)
    demo.say("Stopped.")
    print(report.as_json(), flush=True)
    return 0 if report.passed else 1


class _Demo:
    """The running parts, between start and stop."""

    def __init__(self, folder: Path, servers: ExitStack, steps: TextIO) -> None:
        self._folder = folder
        self._servers = servers
        self._steps = steps

    def run(self, picture_path: Path, *, stop_crew: bool) -> Report:
        self._start_servers()
        images = make_images(IMAGES)
        project = self._connect()
        seconds_to_first_box = self._get_boxes(project, images)
        if stop_crew:
            # Whatever is still on its way is written before this returns, so a late duplicate is counted too.
            self._crew.stop()
        self.say("Comparing what Label Studio holds with what was drawn ...")
        return judge(
            images,
            self._client.predictions(project),
            self._client.image_names(project),
            seconds_to_first_box=seconds_to_first_box,
            picture_path=picture_path,
        )

    def stay_up(self, report: Report) -> None:
        self.say(report.as_json())
        self.say(f"Look at {report.picture}, then at Label Studio itself:")
        self.say(f"  {self._client.url}   user {ADMIN_EMAIL}   password {ADMIN_PASSWORD}")
        self.say("Ctrl-C stops everything; what was made here is thrown away.")
        stop = threading.Event()
        signal.signal(signal.SIGINT, lambda *_: stop.set())
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
        stop.wait()
        self.say("Stopping ...")

    def _start_servers(self) -> None:
        self.say("1/5  Label Studio")
        server = self._servers.enter_context(
            LabelStudioServer.start(venv_dir=LABEL_STUDIO_VENV, data_dir=self._folder / "label-studio", say=self.say)
        )
        token = make_access_token(server.url, ADMIN_EMAIL, ADMIN_PASSWORD)
        self._client = LabelStudioClient(server.url, token)
        self.say("2/5  the crew: `groundcrew up` with its own Redis, one worker and the tiny model")
        settings = {"LABEL_STUDIO_URL": server.url, "LABEL_STUDIO_API_KEY": token}
        folder = self._folder / "crew"
        folder.mkdir()
        self._crew = self._servers.enter_context(Crew.start(folder, settings))

    def _connect(self) -> int:
        self.say("3/5  a project with labels, connected to the crew")
        project = self._client.create_project("Groundcrew demo", make_label_config())
        backend = self._client.connect_backend(project, self._crew.url, title="groundcrew")
        if backend.state != "CO":
            raise DemoFailed(f"Label Studio shows the backend as {backend.state} instead of CO (connected)")
        return project

    def _get_boxes(self, project: int, images: list[DemoImage]) -> float:
        """Seconds from the upload to the first stored box."""
        self.say(f"4/5  {len(images)} generated images; nobody presses a button, a webhook starts the work")
        started_s = time.monotonic()
        self._client.upload_images(project, [image.file for image in images])
        self._wait_for_predictions(project, 1)
        seconds_to_first_box = time.monotonic() - started_s
        self.say("5/5  and now someone presses `Retrieve Predictions` for all of them: no image may be predicted twice")
        self._client.retrieve_predictions(project)
        self._wait_for_predictions(project, len(images))
        return seconds_to_first_box

    def _wait_for_predictions(self, project: int, least: int) -> None:
        ends_at = time.monotonic() + BOXES_DEADLINE_S
        shown = -1
        while shown < least:
            done = len({prediction.task for prediction in self._client.predictions(project)})
            if done != shown:
                self.say(f"     {done} of {IMAGES} images have their boxes")
            shown = done
            if shown < least and time.monotonic() > ends_at:
                raise DemoFailed(
                    f"only {done} of {least} images had boxes after {BOXES_DEADLINE_S:.0f} s; the crew's last words:\n"
                    f"{self._crew.log_tail()}"
                )
            time.sleep(0.1)

    def say(self, line: str) -> None:
        print(line, file=self._steps, flush=True)
