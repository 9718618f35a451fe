"""The model: settings that belong together, a config and a checkpoint that fit, a device that is there.

Called by: groundcrew.doctor. Must not import: torch, mmdet at the top (seconds; only these checks need them).
Example: `check_model(patient).message == "tiny-shapes-1 loads: boxes from score 0.30, NMS at IoU 0.70"`
"""

from __future__ import annotations

from importlib import metadata

from contract.errors import (
    CheckpointMismatch,
    CheckpointRefused,
    ConfigError,
    GroundcrewError,
    LangModelMissing,
    SettingsError,
)
from contract.prompt_map import load_prompt_map
from contract.registry import ModelVersion, Registry
from contract.settings import Settings
from groundcrew.checks.check import Check, ok, problem, skipped, warning
from groundcrew.checks.patient import Patient

FOLDERS = ("label_studio_data_dir", "local_files_root")
NOT_HERE = "the model's libraries are not installed here; run doctor where the worker runs"
REMEDIES: dict[type[GroundcrewError], str] = {
    ConfigError: "Set CONFIG_FILE to an mmengine config, or to a name from mmdet's mm_grounding_dino folder.",
    LangModelMissing: "Download bert-base-uncased once, and set LANG_MODEL to its folder.",
    CheckpointRefused: "Use an official checkpoint or a .safetensors file; download it again if it is damaged.",
    CheckpointMismatch: "Set CHECKPOINT_FILE and CONFIG_FILE to files that were made together.",
    SettingsError: "Correct that setting.",
}
MENDED = "Mend that; then start the processes again, which keep the keys that they began with."


def check_settings(patient: Patient) -> Check:
    """The files and folders that settings name; the values themselves were checked when they were read."""
    try:
        _read_files(patient.settings)
    except SettingsError as error:
        return problem("settings", error.message, "Correct that setting.")
    given = sorted(name.upper() for name in patient.settings.model_fields_set & set(Settings.model_fields))
    return ok("settings", f"valid; set: {', '.join(given)}" if given else "valid; all have their defaults")


def _read_files(settings: Settings) -> None:
    for name in FOLDERS:
        folder = getattr(settings, name)
        if folder is not None and not folder.is_dir():
            raise SettingsError(f"{name.upper()}: {folder} is no folder")
    load_prompt_map(settings)


def check_registry(patient: Patient) -> Check:
    """Can MODEL_DIR be read, be it a directory or a bucket? Without it new jobs have no version."""
    settings = patient.settings
    try:
        count = len(Registry(settings).list()) - 1
    except GroundcrewError as error:
        return problem("registry", error.message, REMEDIES.get(type(error), MENDED))
    return ok("registry", f"{count} model version{'s' * (count != 1)} beside the base in {settings.model_dir}")


def check_model(patient: Patient) -> Check:
    """Load it, as a worker does, but on the CPU: a GPU may be full with what runs there."""
    try:
        from worker.models import load_mmgdino

        version = Registry(patient.settings).base
        load_mmgdino(patient.settings.model_copy(update={"device": "cpu"}))(version)
    except ModuleNotFoundError as error:
        return skipped("model", f"{NOT_HERE} ({error.name} is missing)")
    except GroundcrewError as error:
        return problem("model", error.message, REMEDIES.get(type(error), "Install Groundcrew again."))
    return _describe(version, patient.settings)


def _describe(version: ModelVersion, settings: Settings) -> Check:
    nms = "no NMS" if version.nms_iou is None else f"NMS at IoU {version.nms_iou:.2f}"
    message = f"{version.ref} loads: boxes from score {version.score_threshold:.2f}, {nms}"
    if settings.config_file:
        return ok("model", f"{message}; {version.checkpoint.name}")
    return ok("model", f"{message}; a demo model that knows coloured shapes only")


def check_device(patient: Patient) -> Check:
    """What DEVICE means on this machine."""
    try:
        from worker.detectors.mmgdino import choose_device

        device = str(choose_device(patient.settings.device))
    except ModuleNotFoundError as error:
        return skipped("device", f"{NOT_HERE} ({error.name} is missing)")
    except SettingsError as error:
        return problem("device", error.message, "Set DEVICE=auto or cpu, or install the driver and torch for this GPU.")
    message = f"{device} (DEVICE={patient.settings.device}, torch {metadata.version('torch')})"
    if device == "cpu" and patient.settings.config_file:
        return warning("device", f"{message}: a full-size model takes seconds an image", "Use a machine with a GPU.")
    return ok("device", message)
