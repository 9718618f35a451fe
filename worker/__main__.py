"""`python -m worker predict|write|train|train-until-idle`: one process of the crew.

Called by: groundcrew.up, docker-compose.yml, benchmarks (with other roles). Must not import: backend, groundcrew.
Example: `REDIS_URL=redis://127.0.0.1:6379/0 python -m worker predict`
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from functools import partial

from contract.errors import GroundcrewError
from contract.logs import configure_logs
from contract.settings import Settings, read_settings
from contract.traces import configure_traces
from worker.app import run_predict, run_train, run_write

CANNOT_START_EXIT_CODE = 78  #: EX_CONFIG: starting again would not help
ROLES: Mapping[str, Callable[[Settings], None]] = {
    "predict": run_predict, "write": run_write, "train": run_train,
    "train-until-idle": partial(run_train, until_idle=True),
}


def main(arguments: list[str], roles: Mapping[str, Callable[[Settings], None]] = ROLES) -> int:
    """Run one role until it is told to end; the exit code."""
    if len(arguments) != 1 or arguments[0] not in roles:
        print("usage: python -m worker predict|write|train|train-until-idle", file=sys.stderr)
        return 2
    try:
        settings = read_settings()
        configure_logs(settings, arguments[0])
        configure_traces(settings, arguments[0])
        logging.getLogger("celery").setLevel("WARNING")  # two lines a job otherwise; ours say more
        logging.getLogger("httpx").setLevel("WARNING")
        roles[arguments[0]](settings)
    except GroundcrewError as error:
        print(f"{error.code}: {error.message}", file=sys.stderr)
        return CANNOT_START_EXIT_CODE
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
