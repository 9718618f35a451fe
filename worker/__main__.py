"""`python -m worker predict|write|train`: one process of the crew, configured by environment variables.

Called by: groundcrew.up, docker-compose.yml. Must not import: backend, groundcrew.
Example: `REDIS_URL=redis://127.0.0.1:6379/0 python -m worker predict`
"""

from __future__ import annotations

import logging
import sys

from contract.errors import GroundcrewError
from contract.settings import read_settings
from worker.app import run_predict, run_train, run_write

CANNOT_START_EXIT_CODE = 78  #: EX_CONFIG: starting again would not help
ROLES = {"predict": run_predict, "write": run_write, "train": run_train}


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or arguments[0] not in ROLES:
        print("usage: python -m worker predict|write|train", file=sys.stderr)
        return 2
    try:
        settings = read_settings()
        logging.basicConfig(level=settings.log_level, format=f"%(asctime)s {arguments[0]:<7} %(levelname)s %(message)s")
        logging.getLogger("celery").setLevel("WARNING")  # two lines a job otherwise; ours say more
        logging.getLogger("httpx").setLevel("WARNING")
        ROLES[arguments[0]](settings)
    except GroundcrewError as error:
        print(f"{error.code}: {error.message}", file=sys.stderr)
        return CANNOT_START_EXIT_CODE
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
