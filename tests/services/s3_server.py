"""A real S3 server (moto's), for what keeps model versions in a bucket: on loopback, or in a container beside ours.

Called by: test_registry_s3, test_compose_s3, test_docs, test_get_weights. Must not import: torch.
It takes any key until demand_keys(); from then on it checks keys, signatures and policies, as AWS does.
Example: `with serve_s3(folder) as access: read_settings(access | {"MODEL_DIR": "s3://crew/models"})`
"""

import json
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import boto3
import requests

from groundcrew.child import Child, bare_environment, free_port
from tests.services.waiting import answers, wait_until

ANY_KEY = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}


class Keys(NamedTuple):
    """Of one user."""

    key_id: str
    secret: str

    def as_file(self) -> str:
        """In the form of ~/.aws/credentials."""
        return f"[default]\naws_access_key_id = {self.key_id}\naws_secret_access_key = {self.secret}\n"


@contextmanager
def serve_s3(folder: Path) -> Iterator[dict[str, str]]:
    """Variables that lead boto to a server of our own, which holds no bucket yet; `folder` gets its log."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = Child.start(command, log_path=folder / "moto.log", env=bare_environment())
    try:
        wait_until(lambda: answers(url), "the S3 server", server.log_tail)
        yield {"AWS_ENDPOINT_URL": url, "AWS_EC2_METADATA_DISABLED": "true", **ANY_KEY}
    finally:
        server.stop()


def compose_s3(port: int) -> dict[str, Any]:
    """The same as a service of docker-compose: http://s3:5000 for the others, `port` on this host's loopback.

    Of the API's image it takes Python alone; moto is mounted, with all packages of this environment.
    """
    return {"services": {"s3": {
        "image": "groundcrew-api",
        "command": ["python", "-m", "moto.server", "-H", "0.0.0.0", "-p", "5000"],
        "environment": {"PYTHONPATH": "/packages"},
        "volumes": [f"{sysconfig.get_path('purelib')}:/packages:ro"],
        "ports": [f"127.0.0.1:{port}:5000"],
        "healthcheck": {"disable": True},
        "init": True,
    }}}  # fmt: skip


def demand_keys(url: str, bucket: str, *, folder: str = "") -> Keys:
    """Make a bucket and a user who may use that one only; whoever comes without these keys is refused from now on.

    With a folder the user may list and use that alone; even whether there is such a bucket is not said to them.
    """
    client = partial(boto3.client, endpoint_url=url, aws_access_key_id="key", aws_secret_access_key="secret",
                     region_name="us-east-1")  # fmt: skip
    arn = f"arn:aws:s3:::{bucket}"
    whole = [{"Effect": "Allow", "Action": "s3:*", "Resource": [arn, f"{arn}/*"]}]
    part = [{"Effect": "Allow", "Action": "s3:ListBucket", "Resource": arn,
             "Condition": {"StringLike": {"s3:prefix": f"{folder}/*"}}},
            {"Effect": "Allow", "Action": "s3:*Object", "Resource": f"{arn}/{folder}/*"}]  # fmt: skip
    policy = {"Version": "2012-10-17", "Statement": part if folder else whole}
    with closing(client("s3")) as s3, closing(client("iam")) as iam:
        s3.create_bucket(Bucket=bucket)
        iam.create_user(UserName="crew")
        iam.put_user_policy(UserName="crew", PolicyName="crew", PolicyDocument=json.dumps(policy))
        made = iam.create_access_key(UserName="crew")["AccessKey"]
    requests.post(f"{url}/moto-api/reset-auth", data=b"0", timeout=30).raise_for_status()
    return Keys(made["AccessKeyId"], made["SecretAccessKey"])
