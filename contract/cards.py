"""What a model version and a project's pointer say of themselves: card.json and current.json.

Called by: contract.registry, worker.finetune (fills a card), groundcrew. Must not import: torch, fsspec.
Example: `VersionCard(name="tiny-shapes-p3", version="1", decision="promoted").ref == "tiny-shapes-p3-1"`
"""

from __future__ import annotations

import re
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator

from contract.errors import RegistryError, UnknownVersion

DEFAULT_SCORE_THRESHOLD = 0.3  #: MM Grounding DINO's own demo (mmdet demo/image_demo.py, --pred-score-thr)
DEFAULT_NMS_IOU = 0.7
_REF = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")  #: one name of a directory, so that no message leaves MODEL_DIR
_PROJECT_SUFFIX = re.compile(r"-p\d+$")

State = Literal["base", "current", "candidate", "refused", "retired"]
"""`base` of the settings; `current` of a project; `retired`, was current; `refused` by the rule; `candidate`, else."""

Verdict = Literal["better", "no_boxes", "not_better", "chance", "few_images", "uneven", "forgot"]
"""Why a fine-tune's version was promoted (`better`), or refused; see worker.decision. Pages explain each."""


class VersionCard(BaseModel):
    """card.json: who made a version from what, how good it is, and how to use it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    version: str
    project_id: int | None = None  #: Label Studio's; None where no project's annotations made it
    base: str = ""  #: name and version of the weights it was made from
    job_id: str = ""  #: of the fine-tune; publishing the same job again changes nothing
    created_at: str = ""  #: ISO 8601, UTC
    made_by: str = ""
    dataset_sha256: str = ""  #: of dataset.json
    counts: dict[str, int] = Field(default_factory=dict)
    warnings: tuple[str, ...] = ()  #: about the data, in words
    metrics: dict[str, dict[str, JsonValue]] = Field(default_factory=dict)  #: of "base" and "candidate"
    rule: str = ""  #: what the candidate had to fulfil, in words
    decision: Literal["", "promoted", "refused"] = ""
    verdict: str = ""  #: a Verdict, or one that a newer worker knows; empty in cards of older ones
    reason: str = ""
    evidence: dict[str, JsonValue] = Field(default_factory=dict)  #: how sure it is that weighted mAP on val rose
    settings: dict[str, JsonValue] = Field(default_factory=dict)
    packages: dict[str, str] = Field(default_factory=dict)
    score_threshold: float = DEFAULT_SCORE_THRESHOLD
    nms_iou: float | None = DEFAULT_NMS_IOU

    @field_validator("name", "version")
    @classmethod
    def _is_a_file_name(cls, value: str) -> str:
        if not _REF.fullmatch(value):
            raise ValueError("may hold letters, digits, dots, dashes and underscores only")
        return value

    @property
    def ref(self) -> str:
        """What jobs, the pointer and Label Studio call it."""
        return f"{self.name}-{self.version}"


class Pointer(BaseModel):
    """current.json of a project. The empty ref is the base model of the settings, whichever that is."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    ref: str = ""
    before: tuple[str, ...] = ()  #: where rollback leads, the latest last
    rolled_back: tuple[str, ...] = ()  #: were current once, and were given up
    generation: int = 0  #: how many changes led here; each is made once, see contract.registry

    def promote(self, ref: str) -> Self:
        if ref == self.ref:
            return self
        given_up = tuple(old for old in self.rolled_back if old != ref)
        return self._change(ref=ref, before=(*self.before, self.ref), rolled_back=given_up)

    def rollback(self) -> Self:
        """Raises UnknownVersion when there is nothing before."""
        if not self.before:
            raise UnknownVersion("there is no earlier version to roll back to")
        return self._change(ref=self.before[-1], before=self.before[:-1], rolled_back=(*self.rolled_back, self.ref))

    def _change(self, **fields: str | tuple[str, ...]) -> Self:
        return self.model_copy(update={**fields, "generation": self.generation + 1})

    def dump(self) -> bytes:
        """The content of current.json."""
        return self.model_dump_json(indent=1).encode()

    def was_current(self, ref: str) -> bool:
        """Whether it once was, and is not any more."""
        return ref != self.ref and ref in (*self.before, *self.rolled_back)


def read_pointer(project_id: int, body: bytes) -> Pointer:
    """Raises RegistryError where the file is damaged."""
    try:
        return Pointer.model_validate_json(body)
    except ValidationError:
        raise RegistryError(
            f"MODEL_DIR: current.json of project {project_id} is damaged; delete it to use the base model"
        ) from None


def check_ref(ref: str) -> str:
    """The same text, if it can name a version. Raises UnknownVersion."""
    if not _REF.fullmatch(ref):
        raise UnknownVersion(f"{ref!r} cannot be the name of a model version")
    return ref


def family(name: str) -> str:
    """`tiny-shapes-p3` -> `tiny-shapes`: a fine-tune of a fine-tune is named after the first base."""
    return _PROJECT_SUFFIX.sub("", name)
