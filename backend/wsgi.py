"""The API as gunicorn starts it: `gunicorn backend.wsgi:application --worker-class gthread --threads 32`.

Called by: gunicorn (groundcrew up, docker-compose.yml). Must not import: worker, torch.
Threads, because an opened task waits for its boxes; more than dispatch.SEATS of them, so that /health never waits.
Example: gunicorn backend.wsgi:application --bind 127.0.0.1:9090 --worker-class gthread --threads 32
"""

from __future__ import annotations

from backend.app import create_app
from contract.logs import configure_logs
from contract.settings import read_settings
from contract.traces import configure_traces

_settings = read_settings()
configure_logs(_settings, "api")
configure_traces(_settings, "api")
application = create_app(_settings)
