"""Which model versions exist and which one is current. Moves opaque files, never looks inside.

Called by: backend.models (stamps jobs), worker.models (finds files), worker.finetune (publishes), groundcrew. Must not
import: torch. Without CONFIG_FILE the base model is the tiny one that ships with the package.

    MODEL_DIR/versions/<name>-<version>/   immutable: config.py, model.safetensors, bert/, checksums.json, card.json
    MODEL_DIR/projects/<id>/current.json   which of them a project uses; replaced as a whole
    MODEL_DIR/projects/<id>/changes/<n>.json   what current.json became by its nth change; created once, so that of
                                           two changes at the same instant one is made after the other

Example: `Registry(settings).current(project_id=1).ref == "tiny-shapes-1"`
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from contract.cards import (
    DEFAULT_NMS_IOU,
    DEFAULT_SCORE_THRESHOLD,
    Pointer,
    State,
    VersionCard,
    check_ref,
    family,
    read_pointer,
)
from contract.errors import UnknownVersion
from contract.settings import Settings
from contract.stores import Store, open_store
from contract.tiling import Tiling, default_tiling

log = logging.getLogger(__name__)

ZOO = Path(__file__).resolve().parent.parent / "groundcrew" / "zoo"  #: data that ships with the package
TINY = "tiny-shapes"


class ModelVersion(BaseModel):
    """One immutable set of weights, and how to use it. Paths are as this process sees them."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    version: str
    config: str  #: path of an mmengine config, or the name of one in mmdet's wheel
    checkpoint: Path
    lang_model: Path | None = None
    score_threshold: float = DEFAULT_SCORE_THRESHOLD
    nms_iou: float | None = DEFAULT_NMS_IOU
    tiling: Tiling = Tiling(0, 0.0, True)  #: where the project's label config says nothing

    @property
    def ref(self) -> str:
        """What jobs and Label Studio call it."""
        return f"{self.name}-{self.version}"


class Listed(NamedTuple):
    """One version as `groundcrew models list` shows it."""

    ref: str
    state: State
    card: VersionCard


class Registry:
    """The base model of the settings, and every version in MODEL_DIR. All methods may raise RegistryError."""

    def __init__(self, settings: Settings, store: Store | None = None) -> None:
        self._settings = settings
        self._store = store or open_store(settings)
        self._cards: dict[str, VersionCard] = {}  #: versions never change, so a card is read once
        base = _operators_model(settings) if settings.config_file else read_version(ZOO / TINY)
        self.base = self._with_overrides(base)

    # -- looking ---------------------------------------------------------------------------------------------------

    def current(self, project_id: int) -> ModelVersion:
        """The version that new jobs of this project are stamped with. One small file; at most 2 s old behind a URL."""
        ref = self._pointer(project_id).ref
        try:
            return self.get(ref) if ref else self.base
        except UnknownVersion as error:
            log.warning("project %d goes on with the base model: %s", project_id, error.message)
            return self.base

    def successor(self, project_id: int, ref: str) -> ModelVersion | None:
        """The current version, where `ref` was current before and is not any more; else None."""
        if not self._was_current(project_id, ref, fresh=False):
            return None
        return self.current(project_id) if self._was_current(project_id, ref, fresh=True) else None

    def get(self, ref: str) -> ModelVersion:
        """The version of this name; behind a URL its files may not be here yet, see fetch(). Raises UnknownVersion."""
        return self.base if ref == self.base.ref else self._as_version(self.card(ref))

    def card(self, ref: str) -> VersionCard:
        """The card of a published version. Raises UnknownVersion with the names that exist."""
        if ref not in self._cards:
            body = self._store.card(check_ref(ref))
            if body is None:
                known = ", ".join([self.base.ref, *self._store.refs()])
                raise UnknownVersion(f"model version {ref} is not registered; known: {known}")
            self._cards[ref] = _read_card(ref, body)
        return self._cards[ref]

    def list(self, project_id: int | None = None) -> list[Listed]:
        """The base and all published versions by age; with a project its own, and the base as that project sees it."""
        others = (card for card in self._readable_cards() if card.ref != self.base.ref)
        cards = sorted(others, key=lambda card: (card.created_at, card.ref))
        base = Listed(self.base.ref, self._state_of_base(project_id), _card_of(self.base))
        shown = [card for card in cards if project_id is None or self._concerns(project_id, card)]
        return [base, *(Listed(card.ref, self._state(card, project_id), card) for card in shown)]

    def fetch(self, ref: str) -> ModelVersion:
        """The version, with its files on this machine and every checksum right; call it before loading.

        The base model has no checksums: it is the operator's own. Raises UnknownVersion, CheckpointRefused.
        """
        if ref == self.base.ref:
            return self.base
        card = self.card(ref)
        self._store.fetch(ref)
        return self._as_version(card)

    # -- changing --------------------------------------------------------------------------------------------------

    def next_name(self, project_id: int, base_ref: str) -> tuple[str, str]:
        """(name, version) for a fine-tune: `tiny-shapes-p3`, `1`, `2`, ... Raises UnknownVersion."""
        name = f"{family(self.get(base_ref).name)}-p{project_id}"
        taken = [ref.removeprefix(f"{name}-") for ref in self._store.refs() if ref.startswith(f"{name}-")]
        return name, str(1 + max((int(version) for version in taken if version.isdecimal()), default=0))

    def of_job(self, job_id: str) -> VersionCard | None:
        """What a fine-tune has published, if it came that far before its trainer died."""
        return next((card for card in self._readable_cards() if card.job_id == job_id), None)

    def publish(self, directory: Path, card: VersionCard) -> ModelVersion:
        """Store config.py, model.safetensors and all else in `directory` as a version. Current it becomes by promote().

        Atomic: a crash leaves all of it or nothing. A job that was published already gets that version.
        """
        published = self.of_job(card.job_id) if card.job_id else None
        if published is not None:
            return self._as_version(published)
        self._store.publish(directory, card.ref, card.model_dump_json(indent=1).encode())
        return self._as_version(card)

    def promote(self, project_id: int, ref: str) -> None:
        """Make a version, or the base, the current one of a project. Raises UnknownVersion, CheckpointRefused."""
        self.fetch(ref)
        self._change(project_id, lambda pointer: pointer.promote("" if ref == self.base.ref else ref))

    def rollback(self, project_id: int) -> str:
        """Back to the version before; returns its ref. Raises UnknownVersion when there is none, CheckpointRefused."""
        return self._change(project_id, self._rolled_back).ref or self.base.ref

    # -- small steps -----------------------------------------------------------------------------------------------

    def _rolled_back(self, pointer: Pointer) -> Pointer:
        before = pointer.rollback()
        self.fetch(before.ref or self.base.ref)
        return before

    def _change(self, project_id: int, change: Callable[[Pointer], Pointer]) -> Pointer:
        """Whoever creates the file of the next generation has made it; everybody else changes what that led to."""
        while True:
            old = self._catch_up(project_id)
            new = change(old)
            if new == old:
                return old
            if self._store.claim_change(project_id, new.generation, new.dump()):
                self._catch_up(project_id)
                return new

    def _catch_up(self, project_id: int) -> Pointer:
        """Write the latest change to current.json, whoever made it: that process may have died, or be behind."""
        while True:
            latest = shown = self._pointer(project_id, fresh=True)
            while (body := self._store.change(project_id, latest.generation + 1)) is not None:
                latest = read_pointer(project_id, body)
            if latest == shown:
                return shown
            self._store.point(project_id, latest.dump())

    def _pointer(self, project_id: int, *, fresh: bool = False) -> Pointer:
        body = self._store.pointer(project_id, fresh=fresh)
        return Pointer() if body is None else read_pointer(project_id, body)

    def _readable_cards(self) -> Iterator[VersionCard]:
        for ref in self._store.refs():
            try:
                yield self.card(ref)
            except UnknownVersion as error:  # a damaged version must not hide the others
                log.warning("%s", error.message)

    def _was_current(self, project_id: int, ref: str, *, fresh: bool) -> bool:
        return self._pointer(project_id, fresh=fresh).was_current("" if ref == self.base.ref else ref)

    def _concerns(self, project_id: int, card: VersionCard) -> bool:
        pointer = self._pointer(project_id)
        return card.project_id == project_id or card.ref in (pointer.ref, *pointer.before, *pointer.rolled_back)

    def _state(self, card: VersionCard, project_id: int | None) -> State:
        project_id = project_id if project_id is not None else card.project_id
        pointer = Pointer() if project_id is None else self._pointer(project_id)
        if pointer.ref == card.ref:
            return "current"
        if pointer.was_current(card.ref):
            return "retired"
        return "refused" if card.decision == "refused" else "candidate"

    def _state_of_base(self, project_id: int | None) -> State:
        if project_id is None:
            return "base"
        pointer = self._pointer(project_id)
        return "current" if pointer.ref == "" else "retired" if pointer.was_current("") else "base"

    def _as_version(self, card: VersionCard) -> ModelVersion:
        return self._with_overrides(_version_in(self._store.folder(card.ref), card))

    def _with_overrides(self, version: ModelVersion) -> ModelVersion:
        settings = self._settings
        chosen = {"score_threshold": settings.score_threshold, "nms_iou": settings.nms_iou,
                  "tiling": default_tiling(settings)}  # fmt: skip
        return version.model_copy(update={name: value for name, value in chosen.items() if value is not None})


def read_version(directory: Path) -> ModelVersion:
    """The version in a directory that holds card.json, config.py, model.safetensors and perhaps bert/.

    Raises UnknownVersion when the directory is not one.
    """
    return _version_in(directory, read_card(directory))


def read_card(directory: Path) -> VersionCard:
    """Raises UnknownVersion when the directory holds no usable card.json."""
    try:
        return VersionCard.model_validate_json((directory / "card.json").read_bytes())
    except (OSError, ValueError) as error:
        raise UnknownVersion(f"{directory} holds no usable model version: {error}") from None


def _version_in(directory: Path, card: VersionCard) -> ModelVersion:
    bert = directory / "bert"
    return ModelVersion(
        name=card.name,
        version=card.version,
        config=str(directory / "config.py"),
        checkpoint=directory / "model.safetensors",
        lang_model=bert if bert.is_dir() else None,
        score_threshold=card.score_threshold,
        nms_iou=card.nms_iou,
    )


def _read_card(ref: str, body: bytes) -> VersionCard:
    try:
        card = VersionCard.model_validate_json(body)
    except ValidationError as error:
        raise UnknownVersion(f"the card of model version {ref} is damaged: {error}") from None
    if card.ref != ref:
        raise UnknownVersion(f"the card of model version {ref} is that of {card.ref}")
    return card


def _card_of(base: ModelVersion) -> VersionCard:
    names = ("name", "version", "score_threshold", "nms_iou")
    return VersionCard.model_validate({name: getattr(base, name) for name in names})


def _operators_model(settings: Settings) -> ModelVersion:
    """CONFIG_FILE and CHECKPOINT_FILE as a version: a published one, or named by the files as both sides see them."""
    checkpoint = settings.checkpoint_file
    assert checkpoint is not None  # checked by read_settings
    if Path(settings.config_file).parent == checkpoint.parent and (checkpoint.parent / "card.json").is_file():
        return read_version(checkpoint.parent)
    config = Path(settings.config_file).name.removesuffix(".py")
    return ModelVersion(
        name=config.removeprefix("grounding_dino_"),
        version=_checkpoint_tag(checkpoint),
        config=settings.config_file,
        checkpoint=checkpoint,
        lang_model=settings.lang_model,
    )


def _checkpoint_tag(checkpoint: Path) -> str:
    """Official files end in `-` and eight digits of their sha256; others get eight digits of their name's."""
    official = re.search(r"-([0-9a-f]{8})$", checkpoint.stem)
    return official.group(1) if official else hashlib.sha256(checkpoint.name.encode()).hexdigest()[:8]
