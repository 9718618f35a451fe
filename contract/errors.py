"""The one error tree. Each class says its code, its HTTP status and whether trying again can help.

Called by: everything. Must not import: anything of ours.
Example: `raise PayloadError("tasks", "is missing; send a list of Label Studio tasks")`

GroundcrewError
|-- SettingsError                 a variable or flag has a bad value
|-- RequestError (400)            the caller sent something wrong; names the field
|   `-- PayloadError, LabelConfigError, PromptError  a field of the JSON body; the XML of the labels; a prompt's length
|-- Unauthorized (401), ForgedRequest (403), UnknownJob (404)
|-- BrokerUnavailable (503, retry)    Redis does not answer
|   `-- QueueFull                 the project's queue is at its limit
|-- ImageError                    this image alone fails; its neighbours go on
|   |-- ImageUnreadable, ImageTooLarge, ImageForbidden, ImageNotFound
|   `-- ImageUnavailable (retry)  the server that holds it did not answer in time
|       `-- LabelStudioAway       that server is Label Studio, and none of its other images would come either
|-- ModelError
|   |-- UnknownVersion, ConfigError, LangModelMissing, CheckpointRefused, CheckpointMismatch
|   |-- RegistryError           MODEL_DIR cannot be read or written, or would have to change a version
|   `-- OutOfDeviceMemory, DetectorHung (retry)  smaller batches may help; a detect call ran past its limit
|-- LabelStudioError
|   |-- LabelStudioUnreachable (retry)  no answer, 429 or 5xx
|   |   `-- BeingStored         another writer is storing the same prediction just now
|   `-- LabelStudioRefused, TokenMissing       400, 403 or 404; no token is configured to write back with
|-- TrainingDataError (422)       the project's annotations do not make a training
|-- PredictionFailed (502), PredictionLate (504, retry)  someone waits for boxes, but none were found, or not in time
`-- Poison, BadMessage, JobExpired, JobCancelled         ends of a job or message that no retry changes
"""

from __future__ import annotations

from typing import ClassVar


class GroundcrewError(Exception):
    """Something went wrong; the message is one sentence that says what to do."""

    code: ClassVar[str] = "internal_error"  #: stable, for programs
    http_status: ClassVar[int] = 500
    retry: ClassVar[bool] = False  #: whether the same work may succeed later

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (self.__doc__ or self.code).strip().splitlines()[0])

    @property
    def message(self) -> str:
        return str(self.args[0])


class SettingsError(GroundcrewError):
    """A setting has a bad value."""

    code = "bad_setting"


class RequestError(GroundcrewError):
    """The request cannot be served as it was sent."""

    code = "bad_request"
    http_status = 400

    def __init__(self, field: str, problem: str) -> None:
        self.field = field  #: dotted path of the offending field, for example ``tasks[3].data.image``
        super().__init__(f"{field} {problem}")


class PayloadError(RequestError):
    """A field of the JSON body is missing or of the wrong type."""

    code = "bad_payload"


class LabelConfigError(RequestError):
    """The label config cannot be used for boxes."""

    code = "bad_label_config"

    def __init__(self, problem: str, field: str = "label_config") -> None:
        super().__init__(field, problem)


class PromptError(RequestError):
    """A prompt is empty or does not fit the model's text length."""

    code = "bad_prompt"

    def __init__(self, problem: str, field: str = "prompt") -> None:
        super().__init__(field, problem)


class Unauthorized(GroundcrewError):
    """Credentials are missing or wrong: send the configured user and password, or the webhook secret."""

    code = "unauthorized"
    http_status = 401


class ForgedRequest(GroundcrewError):
    """This button was not pressed on a page of ours, or the page is old: reload it and press again."""

    code = "forged_request"
    http_status = 403


class UnknownJob(GroundcrewError):
    """No job of this id is known: it never existed, or its record has expired."""

    code = "unknown_job"
    http_status = 404


class BrokerUnavailable(GroundcrewError):
    """Redis does not answer: check REDIS_URL and that the server runs, then ask again."""

    code = "broker_unavailable"
    http_status = 503
    retry = True


class QueueFull(BrokerUnavailable):
    """The queue is full: wait until workers have caught up, or start more workers."""

    code = "queue_full"


class ImageError(GroundcrewError):
    """The image of one task cannot be used."""

    code = "image_error"
    http_status = 422


class ImageUnreadable(ImageError):
    """The file is not an image that can be decoded."""

    code = "image_unreadable"


class ImageTooLarge(ImageError):
    """The image exceeds the limits on bytes or pixels."""

    code = "image_too_large"


class ImageForbidden(ImageError):
    """The image's address is not allowed, or access to it was denied."""

    code = "image_forbidden"


class ImageNotFound(ImageError):
    """There is no image at the address that the task names."""

    code = "image_not_found"


class ImageUnavailable(ImageError):
    """The server that holds the image did not deliver it in time."""

    code = "image_unavailable"
    retry = True


class LabelStudioAway(ImageUnavailable):
    """Label Studio, which holds the image, cannot be reached: no fault of the image, so it is asked again for a day."""


class ModelError(GroundcrewError):
    """The model cannot be loaded or used."""

    code = "model_error"


class UnknownVersion(ModelError):
    """No model of this name and version is registered."""

    code = "unknown_version"


class ConfigError(ModelError):
    """CONFIG_FILE names no usable mmdet config."""

    code = "bad_config"


class LangModelMissing(ModelError):
    """The language model's directory is missing: set LANG_MODEL to a local BERT directory."""

    code = "lang_model_missing"


class CheckpointRefused(ModelError):
    """The checkpoint is damaged, or wants to run code, and was not loaded."""

    code = "checkpoint_refused"


class CheckpointMismatch(ModelError):
    """The checkpoint does not fit the config."""

    code = "checkpoint_mismatch"


class RegistryError(ModelError):
    """MODEL_DIR cannot be used."""

    code = "registry_error"


class OutOfDeviceMemory(ModelError):
    """The device ran out of memory."""

    code = "out_of_device_memory"
    retry = True


class DetectorHung(ModelError):
    """The detector did not answer within its limit."""

    code = "detector_hung"
    retry = True


class LabelStudioError(GroundcrewError):
    """Label Studio could not be used."""

    code = "label_studio_error"
    http_status = 502


class LabelStudioUnreachable(LabelStudioError):
    """Label Studio did not answer; the work is kept and tried again."""

    code = "label_studio_unreachable"
    retry = True


class BeingStored(LabelStudioUnreachable):
    """Another writer is storing this task's prediction just now."""

    code = "being_stored"


class LabelStudioRefused(LabelStudioError):
    """Label Studio refused the request."""

    code = "label_studio_refused"


class TokenMissing(LabelStudioError):
    """No token is configured: set LABEL_STUDIO_API_KEY to a personal access token."""

    code = "token_missing"


class TrainingDataError(GroundcrewError):
    """The annotations cannot be trained on."""

    code = "bad_training_data"
    http_status = 422


class PredictionFailed(GroundcrewError):
    """The boxes of this image could not be found."""

    code = "prediction_failed"
    http_status = 502


class PredictionLate(GroundcrewError):
    """No worker found the boxes in time: check that one runs, then ask again."""

    code = "prediction_late"
    http_status = 504
    retry = True


class Poison(GroundcrewError):
    """The job has killed its worker three times while it ran alone: look at its image, then replay it or drop it."""

    code = "poison"


class BadMessage(GroundcrewError):
    """A message in a queue cannot be understood."""

    code = "bad_message"


class JobExpired(GroundcrewError):
    """Whoever asked for this has stopped waiting."""

    code = "expired"


class JobCancelled(GroundcrewError):
    """The job was cancelled, or its task deleted."""

    code = "cancelled"
