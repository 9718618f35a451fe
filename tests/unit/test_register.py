"""Each consumer of a worker has tasks of its own.

Called by: pytest. Must not import: torch.
Example: pytest tests/unit/test_register.py
"""

from types import SimpleNamespace

from celery import Celery

from contract.jobs import PredictJob
from worker.tasks import register


def test_an_urgent_job_does_not_go_through_the_lane_of_the_bulk_consumer():
    # given the apps of a worker's two consumers; only the first has a lane
    bulk, urgent = (SimpleNamespace(app=Celery(name, set_as_current=False), records=SimpleNamespace(dead=None))
                    for name in ("bulk", "urgent"))  # fmt: skip
    register(bulk, lane="the lane")
    register(urgent)

    # then
    assert bulk.app.tasks[PredictJob.name].lane == "the lane"
    assert not hasattr(urgent.app.tasks[PredictJob.name], "lane")
