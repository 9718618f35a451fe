"""OpenTelemetry spans from the API to the write-back, linked through message headers, where a collector is set.

Called by: process entry points (configure_traces), backend.dispatch, worker.following, contract.envelopes.
Must not import: opentelemetry, unless OTEL_EXPORTER_OTLP_ENDPOINT is set (extra: groundcrew[traces]).
Example: `with span("groundcrew.predict", parent=headers.get("traceparent"), project=1): ...`
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from contract.errors import SettingsError
from contract.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

_tracers: list[Tracer] = []  #: none or one, of this process
MISSING = "OTEL_EXPORTER_OTLP_ENDPOINT: traces need more packages; run `pip install 'groundcrew[traces]'`"


def configure_traces(settings: Settings, role: str) -> None:
    """Send spans to OTEL_EXPORTER_OTLP_ENDPOINT, in batches in the background. Raises SettingsError."""
    if not settings.otel_exporter_otlp_endpoint or _tracers:
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise SettingsError(MISSING) from None
    provider = TracerProvider(resource=Resource.create({"service.name": f"groundcrew-{role}"}))
    exporter = OTLPSpanExporter(endpoint=f"{settings.otel_exporter_otlp_endpoint}/v1/traces")
    provider.add_span_processor(BatchSpanProcessor(exporter))
    _tracers.append(provider.get_tracer("groundcrew"))


def is_tracing() -> bool:
    return bool(_tracers)


@contextmanager
def span(name: str, facts: Mapping[str, str | int], *, parent: str = "") -> Iterator[None]:
    """A span of the block, below `parent` (a W3C traceparent) or below the span that is running here."""
    if not _tracers:
        yield
        return
    from opentelemetry.propagate import extract

    context = extract({"traceparent": parent}) if parent else None
    attributes = {f"groundcrew.{fact}": value for fact, value in facts.items()}
    with _tracers[0].start_as_current_span(name, context=context, attributes=attributes):
        yield


def traceparent() -> str:
    """The running span in W3C's form, for a message's headers; empty where there is none."""
    if not _tracers:
        return ""
    from opentelemetry.propagate import inject

    carrier: dict[str, str] = {}
    inject(carrier)
    return carrier.get("traceparent", "")
