"""A publisher that is killed during an upload: `python -m tests.fakes.dying_publisher <uploads> <folder> <job>`.

Called by: tests/services/test_registry_s3.py, with settings in the environment. All but the death is real.
Must not import: torch.
"""

import os
import sys
from pathlib import Path

from contract.registry import Registry
from contract.settings import read_settings
from contract.stores import RemoteStore, open_url
from tests.fakes.versions import card


class DyingStore(RemoteStore):
    """Ends the process, as kill -9 would, instead of the upload after so many."""

    good_uploads = 0

    def _put(self, name, content, mode="overwrite"):
        if self.good_uploads == 0:
            os._exit(9)
        self.good_uploads -= 1
        super()._put(name, content, mode)


def main(uploads, folder, job_id):
    settings = read_settings()
    store = DyingStore(*open_url(settings.model_dir), cache_dir=settings.model_cache_dir)
    store.good_uploads = int(uploads)
    Registry(settings, store).publish(Path(folder), card(2, job_id=job_id))


if __name__ == "__main__":
    main(*sys.argv[1:])
