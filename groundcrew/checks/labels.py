"""The label configs of connected projects: can they be used, and will their prompts find what they mean?

Called by: groundcrew.doctor. Must not import: torch, transformers.
Example: `check_labels(patient).message == "3 labels of project 1 (Street) read well"`
"""

from __future__ import annotations

from collections.abc import Callable

from backend.models import ModelCards
from contract.errors import GroundcrewError, UnknownJob
from contract.projects import Projects
from contract.prompts import PromptWarning, lint_prompts
from contract.registry import Registry
from contract.status import JobRecords
from groundcrew.checks.check import Check, ok, problem, skipped, warning, worst
from groundcrew.checks.patient import Patient

MOST_SHOWN = 3  #: pieces of advice; the log of the API has all of them

NamedConfig = tuple[str, str]  #: what to call the project, label config XML


def check_labels(patient: Patient) -> Check:
    """Read and lint the label config of each connected project."""
    configs = _label_configs(patient)
    if not configs:
        return skipped("labels", "needs a connected project")
    try:
        cards, count_tokens = ModelCards(patient.settings), token_counter(patient)
    except GroundcrewError as error:
        return skipped("labels", f"needs valid settings and a model ({error.code})")
    return worst([_judge(name, xml, cards, count_tokens) for name, xml in configs])


def _label_configs(patient: Patient) -> list[NamedConfig]:
    """From Label Studio, or without a token as it sent them last."""
    if patient.links is not None:
        return [(link.project.name, link.project.label_config) for link in patient.links]
    if patient.redis is None:
        return []
    records = JobRecords(patient.redis, failed_memory_s=0)
    seen = []
    for facts in Projects(patient.redis).list():
        try:
            seen.append((f"project {facts.project_id}", records.load_config(facts.config_id)[0]))
        except UnknownJob:  # Redis was emptied since
            continue
    return seen


def _judge(name: str, xml: str, cards: ModelCards, count_tokens: Callable[[str], int] | None) -> Check:
    try:
        label_map = cards.look_up(0, xml).label_map
    except GroundcrewError as error:
        return problem("labels", f"{name}: {error.message}", "Correct it in Settings > Labeling Interface.")
    advice = lint_prompts(label_map, count_tokens=count_tokens)
    if not advice:
        count = len(label_map.targets)
        return ok("labels", f"{count} label{'s' * (count != 1)} of {name} read{'s' * (count == 1)} well")
    return warning("labels", f"{name}: {_shorten(advice)}", "Change these labels in Settings > Labeling Interface, or "
                   "give them prompts with PROMPT_MAP_FILE.")  # fmt: skip


def _shorten(advice: list[PromptWarning]) -> str:
    shown = [f'"{each.label}" {each.message}' if each.label else each.message for each in advice[:MOST_SHOWN]]
    more = [f"and {len(advice) - MOST_SHOWN} more"] if len(advice) > MOST_SHOWN else []
    return "; ".join([*shown, *more])


def token_counter(patient: Patient) -> Callable[[str], int] | None:
    """Counts tokens as the model's own tokenizer does; None where its file is not there. Raises ModelError."""
    folder = Registry(patient.settings).base.lang_model
    path = folder / "tokenizer.json" if folder else None
    if path is None or not path.exists():
        return None
    from tokenizers import Tokenizer  # a part of transformers that needs no torch

    tokenizer = Tokenizer.from_file(str(path))
    return lambda prompt: len(tokenizer.encode(prompt, add_special_tokens=False).ids)
