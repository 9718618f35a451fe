"""`groundcrew models`: which versions exist, which one a project uses, and changing that.

Called by: groundcrew.cli. Must not import: backend; at the top: torch.
Workers and the API read the same MODEL_DIR, so a change counts for the next image; nothing is restarted.
Example: `list_models(settings, project_id=3)` -> [{"ref": "tiny-shapes-p3-1", "state": "current", ...}, ...]
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from contract.cards import VersionCard
from contract.errors import SettingsError, UnknownVersion
from contract.registry import Listed, Registry, read_card
from contract.settings import Settings
from worker.detectors.base import ModelSource

Json = dict[str, Any]

PICTURES = {"loss": "loss.png", "precision-recall": "pr.png"}  #: what it shows -> file of a version
PARTS = {"val": "on val", "general": "on the base's own held-out images"}  #: of a card's metrics
FIGURES = {"weighted_map": "weighted mAP", "map": "mAP", "ap50": "AP50"}  #: of a part


def list_models(settings: Settings, project_id: int | None) -> list[Json]:
    """The base and all versions, oldest first; with a project its own only."""
    return [_as_row(listed) for listed in Registry(settings).list(project_id)]


def show_model(settings: Settings, ref: str, pictures_dir: Path | None = None) -> Json:
    """The card, and where the files are.

    Args:
        pictures_dir: where to put copies of its pictures; they are fetched first where MODEL_DIR is a URL.

    Raises:
        UnknownVersion; with pictures_dir also SettingsError, CheckpointRefused, RegistryError.
    """
    registry = Registry(settings)
    version = registry.get(ref) if pictures_dir is None else registry.fetch(ref)
    folder = version.checkpoint.parent
    pictures = find_pictures(folder) if pictures_dir is None else copy_pictures(ref, folder, pictures_dir)
    files = {"config": version.config, "checkpoint": str(version.checkpoint), "pictures": pictures}
    if ref == registry.base.ref:
        return {"ref": ref, "name": version.name, "version": version.version,
                "score_threshold": version.score_threshold, "nms_iou": version.nms_iou, **files}  # fmt: skip
    return {"ref": ref, **registry.card(ref).model_dump(mode="json"), **files}


def find_pictures(folder: Path) -> dict[str, str]:
    """What a picture shows -> where it is, of those that are on this machine."""
    return {name: str(folder / file) for name, file in PICTURES.items() if (folder / file).exists()}


def copy_pictures(ref: str, folder: Path, target: Path) -> dict[str, str]:
    """The same, as copies in `target` under names that tell versions apart. Raises SettingsError."""
    try:
        target.mkdir(parents=True, exist_ok=True)
        copies = {name: target / f"{ref}-{name}.png" for name in find_pictures(folder)}
        for name, copy in copies.items():
            shutil.copyfile(folder / PICTURES[name], copy)
    except OSError as error:
        raise SettingsError(f"--pictures: {target} cannot be written: {error.strerror}") from None
    return {name: str(copy) for name, copy in copies.items()}


def promote_model(settings: Settings, ref: str, project_id: int | None) -> str:
    """Make a version current; returns what was done, in words. Raises UnknownVersion, CheckpointRefused."""
    registry = Registry(settings)
    project = project_id if project_id is not None else _project_of(registry, ref)
    registry.promote(project, ref)
    return f"project {project} now uses {ref}; jobs that wait get the new version"


def rollback_model(settings: Settings, project_id: int) -> str:
    """Back to the version before; returns what was done, in words. Raises UnknownVersion."""
    ref = Registry(settings).rollback(project_id)
    return f"project {project_id} uses {ref} again; jobs that wait get that version"


def add_model(settings: Settings, directory: Path | None, name: str | None, version: str | None,
              sha256: str = "") -> str:  # fmt: skip
    """Publish a model as a version that workers load without running any of it; returns what was done, in words.

    Args:
        directory: holds config.py, model.safetensors and perhaps bert/; None: CONFIG_FILE, CHECKPOINT_FILE, LANG_MODEL.
        name, version: where the directory has no card.json, or another one is wanted.
        sha256: first digits, or all, of what the checkpoint must have.

    Raises:
        SettingsError: neither card.json nor both options name it, or there is no model to add.
        ConfigError, LangModelMissing, CheckpointRefused, CheckpointMismatch: it would not load.
        RegistryError: there is such a version already, or MODEL_DIR cannot be written.
    """
    from worker.adopt import adopt, check_sha256, copy_others

    card = _card_for(directory, name, version)
    source = _source_of(settings, directory, card)
    check_sha256(source.checkpoint, sha256)
    with tempfile.TemporaryDirectory() as made:
        target = Path(made) / "version"
        adopt(source, target)
        if directory is not None:
            copy_others(directory, target)
        added = Registry(settings).publish(target, card)
    return f"{added.ref} is registered; use it with: groundcrew models promote {added.ref} --project N"


def _source_of(settings: Settings, directory: Path | None, card: VersionCard) -> ModelSource:
    if directory is not None:
        bert = directory / "bert"
        return ModelSource(card.name, card.version, str(directory / "config.py"), directory / "model.safetensors",
                           bert if bert.is_dir() else settings.lang_model)  # fmt: skip
    if not settings.config_file or settings.checkpoint_file is None:
        raise SettingsError("Nothing to add: name a DIRECTORY, or --config-file, --checkpoint-file and --lang-model")
    return ModelSource(card.name, card.version, settings.config_file, settings.checkpoint_file, settings.lang_model)


def _card_for(directory: Path | None, name: str | None, version: str | None) -> VersionCard:
    given = {key: value for key, value in (("name", name), ("version", version)) if value is not None}
    try:
        has_card = directory is not None and (directory / "card.json").exists()
        known = read_card(directory).model_dump() if has_card else {"made_by": "by hand"}
        return VersionCard.model_validate(known | given)
    except (UnknownVersion, ValueError):
        raise SettingsError(
            f"{directory or 'A checkpoint'} has no usable card.json: give --name and --version "
            "(letters, digits, dots, dashes)"
        ) from None


def _project_of(registry: Registry, ref: str) -> int:
    project_id = None if ref == registry.base.ref else registry.card(ref).project_id
    if project_id is None:
        raise SettingsError(f"{ref} was not made for one project: say which with --project N")
    return project_id


def _as_row(listed: Listed) -> Json:
    card = listed.card
    return {
        "ref": listed.ref,
        "state": listed.state,
        "project_id": card.project_id,
        "base": card.base,
        "created_at": card.created_at,
        "map_base": _on_val(card, "base", "map"),
        "map": _on_val(card, "candidate", "map"),
        "weighted_map_base": _on_val(card, "base", "weighted_map"),
        "weighted_map": _on_val(card, "candidate", "weighted_map"),
        "reason": card.reason,
    }


def _on_val(card: VersionCard, which: str, figure: str) -> float | None:
    on_val = card.metrics.get(which, {}).get("val")
    found = on_val.get(figure) if isinstance(on_val, dict) else None
    return float(found) if isinstance(found, int | float) else None


def print_models(rows: Sequence[Mapping[str, Any]]) -> None:
    """What list_models found, as a table."""
    table = Table("Version", "State", "Project", "Made from", "Weighted mAP", "Made", "Reason")
    for row in rows:
        project = "" if row["project_id"] is None else str(row["project_id"])
        table.add_row(*map(_plain, (row["ref"], row["state"], project, row["base"], _gain(row), row["created_at"][:16],
                                    row["reason"])))  # fmt: skip
    Console(highlight=False).print(table)


def print_model(found: Mapping[str, Any]) -> None:
    """What show_model found, as tables without what is empty: the measurements by themselves."""
    console = Console(highlight=False)
    table = Table(show_header=False, title=_plain(found["ref"]), title_justify="left")
    for name, value in found.items():
        if name not in ("metrics", "evidence") and value not in ("", None, {}, []):
            table.add_row(name, _plain(_in_lines(value)))
    console.print(table)
    if found.get("metrics"):
        console.print(_metrics_table(found["metrics"]))
    if found.get("evidence"):
        console.print(_plain(explain_evidence(found["evidence"])), soft_wrap=True)


def explain_evidence(evidence: Mapping[str, Any]) -> str:
    """What the decision rests on, in words; `evidence` is a card's."""
    ends = " to ".join(f"{evidence[end]:+.3f}" for end in ("lowest", "highest"))
    measured = f"Measured on {evidence['images']} images with boxes"
    if "confidence" in evidence:
        sure = f"each end holds with {evidence['confidence']:.0%} confidence"
        said = f"{measured}. On other images like these, weighted mAP would change by {ends}; {sure}."
    else:
        said = f"{measured}, too few to say how sure it is. Image by image, weighted mAP changed by {ends}."
    few = " The decision rests on few images: annotate more, and the next one is surer."
    return said + few * bool(evidence["few_images"])


def _in_lines(value: object) -> object:
    if isinstance(value, Mapping):
        return "\n".join(f"{name}: {one}" for name, one in value.items())
    return "\n".join(map(str, value)) if isinstance(value, list) else value


def _metrics_table(metrics: Mapping[str, Any]) -> Table:
    table = Table("Measured", "Before", "After", title="Before and after, with the same prompts", title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    before, after = metrics.get("base", {}), metrics.get("candidate", {})
    for part, where in PARTS.items():
        for name, title in FIGURES.items():
            table.add_row(f"{title} {where}", *(_figure(one.get(part, {}).get(name)) for one in (before, after)))
    per_class = [one.get("val", {}).get("per_class_ap", {}) for one in (before, after)]
    for label in dict.fromkeys([*per_class[0], *per_class[1]]):
        table.add_row(_plain(f'AP of "{label}" on val'), *(_figure(one.get(label)) for one in per_class))
    return table


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _gain(row: Mapping[str, Any]) -> str:
    before, after = row["weighted_map_base"], row["weighted_map"]
    return "" if before is None or after is None else f"{before:.3f} -> {after:.3f}"


def _plain(value: object) -> str:
    """Text in which square brackets mean nothing to rich."""
    return str(value).replace("[", r"\[")
