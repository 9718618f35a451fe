"""The bucket behind a MODEL_DIR: whether there is one, and which setting to look at when it refuses.

Called by: contract.stores. Must not import: botocore, s3fs (they are not there where MODEL_DIR is a directory), so
errors are told apart by the names of their classes. Stores that do not speak S3 get no advice, just their error.
Example: `Bucket(filesystem, "crew/models").explain(PermissionError("Forbidden")) == "Forbidden; check the keys: ..."`
"""

from __future__ import annotations

from typing import Any

from contract.errors import RegistryError

KEYS = (
    "; check the keys: AWS_SHARED_CREDENTIALS_FILE (with docker-compose secrets/aws_credentials), "
    "or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
)
PLACE = "; check AWS_ENDPOINT_URL, and whether this machine reaches it"
ADVICE = {
    "PermissionError": KEYS, "NoCredentialsError": KEYS, "PartialCredentialsError": KEYS, "ConfigParseError": KEYS,
    "EndpointConnectionError": PLACE, "ConnectTimeoutError": PLACE, "ReadTimeoutError": PLACE, "SSLError": PLACE,
}  # fmt: skip


class Bucket:
    """The first part of a path such as crew/models. Paths that begin with a slash have none."""

    def __init__(self, filesystem: Any, root: str) -> None:
        self._fs = filesystem
        self._root = root
        self._name = root.partition("/")[0]
        self._seen = False

    def need(self) -> None:
        """Call it when something is not found: a bucket that is missing reads like an empty one.

        One request or two, until it has been seen. Raises RegistryError.
        """
        self._seen = self._seen or not self._name or bool(self._fs.exists(self._name)) or self._is_said_to_be_there()
        if not self._seen:
            raise RegistryError(
                f"MODEL_DIR: there is no bucket {self._name}; create it, or correct MODEL_DIR or, for other stores "
                "than AWS, AWS_ENDPOINT_URL"
            )

    def _is_said_to_be_there(self) -> bool:
        """S3 hides a bucket from keys that are for one folder of it; it lists the folder, if only as empty."""
        if "s3" not in self._fs.protocol:
            return False
        try:
            self._fs.ls(self._root, refresh=True)
        except FileNotFoundError as error:  # caused by an answer of the store, such as NoSuchBucket, or else by none
            return error.__cause__ is None
        except Exception:  # whether it is there, nobody knows; what refused it says so elsewhere
            return False
        return True

    def explain(self, error: Exception) -> str:
        """What it says, and what to look at."""
        advised = self.advice(error)
        return str(error).rstrip(".") + advised if advised else str(error)

    def advice(self, error: Exception) -> str:
        """Which settings to check, as the rest of a sentence; empty where the error is of another kind."""
        names = [kind.__name__ for kind in type(error).__mro__] if "s3" in self._fs.protocol else []
        return next((ADVICE[name] for name in names if name in ADVICE), "")
