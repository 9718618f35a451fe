"""Messages for tests: valid ones with the least typing. Called by: tests. Example: `predict_job(task_id=7)`."""

from typing import Any

from contract.jobs import Prediction, PredictJob, WriteBackJob, job_id

VERSION = "tiny-shapes-1.00000000"


def predict_job(task_id: int = 1, **fields: Any) -> PredictJob:
    values = {"project_id": 1, "image": "/data/upload/1/a.png", "config_id": "c", "model": "tiny-shapes-1",
              "model_version": VERSION} | fields  # fmt: skip
    return PredictJob(task_id=task_id, id=job_id(values["project_id"], task_id, values["model_version"]), **values)


def write_job(task_id: int = 1, **fields: Any) -> WriteBackJob:
    job = predict_job(task_id)
    prediction = Prediction(task_id=task_id, model_version=job.model_version, score=0.5, result=[])
    later_s = job.enqueued_at_s + 60  # asked after Redis started, however young that Redis is
    known = {"id": job.id, "run": job.run, "project_id": 1, "prediction": prediction, "asked_at_s": later_s}
    return WriteBackJob(**known | fields)
