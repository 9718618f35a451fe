"""A real S3 server on loopback (moto's), for what keeps model versions in a bucket.

Called by: tests/services/test_registry_s3.py, test_docs.py. Must not import: torch.
Example: `with serve_s3(folder) as access: read_settings(access | {"MODEL_DIR": "s3://crew/models"})`
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from groundcrew.child import Child, bare_environment, free_port
from tests.services.waiting import answers, wait_until


@contextmanager
def serve_s3(folder: Path) -> Iterator[dict[str, str]]:
    """Variables that lead boto to a server of our own, which holds no bucket yet; `folder` gets its log."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = Child.start(command, log_path=folder / "moto.log", env=bare_environment())
    try:
        wait_until(lambda: answers(url), "the S3 server", server.log_tail)
        yield {"AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
               "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}  # fmt: skip
    finally:
        server.stop()
