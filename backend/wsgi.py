"""The API as gunicorn starts it: `gunicorn backend.wsgi:application --worker-class gthread --threads 32`.

Called by: gunicorn (groundcrew up, docker-compose.yml). Must not import: worker, torch.
Threads, because an opened task waits for its boxes; more than dispatch.SEATS of them, so that /health never waits.
Example: gunicorn backend.wsgi:application --bind 127.0.0.1:9090 --worker-class gthread --threads 32
"""

from __future__ import annotations

import logging

from backend.app import create_app
from contract.settings import read_settings

_settings = read_settings()
logging.basicConfig(level=_settings.log_level, format="%(asctime)s %(levelname)s api %(message)s")
application = create_app(_settings)
