"""OpenTelemetry traces: the spans of API, worker and writer reach a collector as one trace."""

import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from contract.envelopes import enclose
from contract.jobs import PredictJob
from tests.services.machine import REPOSITORY

#: One process plays three: what it sends in a message's headers is all that the next part knows.
PARTS = """
import json
from types import SimpleNamespace
from contract.envelopes import enclose
from contract.jobs import Prediction, PredictJob, WriteBackJob
from contract.settings import read_settings
from contract.traces import configure_traces, span
from worker.following import follow

def received(job):
    return SimpleNamespace(**json.loads(enclose(job, 8).message)["headers"])

configure_traces(read_settings(), "api")
predict = PredictJob(project_id=3, task_id=7, image="http://h/?token=secret", config_id="c", model="m",
                     model_version="v", id="p3-t7-0")
write = WriteBackJob(id=predict.id, run=predict.run, project_id=3,
                     prediction=Prediction(task_id=7, model_version="v", score=0, result=[]))
with span("groundcrew.send", {"project": 3}):
    message = received(predict)
with follow(message, predict):
    message = received(write)
with follow(message, write):
    pass
"""


@pytest.fixture
def collector():
    """Keeps the spans that are posted to it."""
    spans, raw = [], []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            raw.append(body)
            request = ExportTraceServiceRequest.FromString(body)
            spans.extend(s for r in request.resource_spans for scope in r.scope_spans for s in scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield SimpleNamespace(url=f"http://127.0.0.1:{server.server_port}", spans=spans, raw=raw)
    server.shutdown()
    server.server_close()


def test_the_spans_of_all_parts_are_one_trace_each_below_the_one_before(collector):
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
    subprocess.run([sys.executable, "-c", PARTS], env=environment, cwd=REPOSITORY, check=True, timeout=240)
    by_name = {span.name: span for span in collector.spans}
    send, predict, write = (by_name[f"groundcrew.{name}"] for name in ("send", "predict", "write_back"))
    assert {span.trace_id for span in (send, predict, write)} == {send.trace_id}
    assert (predict.parent_span_id, write.parent_span_id) == (send.span_id, predict.span_id)
    facts = {attribute.key: attribute.value for attribute in write.attributes}
    assert (facts["groundcrew.project"].int_value, facts["groundcrew.task"].int_value) == (3, 7)
    assert b"secret" not in b"".join(collector.raw)


def test_without_the_setting_nothing_is_imported_and_no_header_is_sent():
    job = PredictJob(project_id=3, task_id=7, image="i", config_id="c", model="m", model_version="v", id="p3-t7-0")
    assert "traceparent" not in enclose(job, 8).message
    check = "import sys, worker.app, backend.app; sys.exit('opentelemetry.exporter.otlp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], cwd=REPOSITORY, check=False).returncode == 0
