"""Every sentence that the code can give as a reason, read out of its source, with a blank for each value.

Called by: tests/unit/test_phrases.py. Must not import: anything of ours; it reads files.
A new sentence is found where it is written, so that nobody has to remember the Chinese page.
Example: `{row.text for row in read_sentences() if row.code == "image_too_large"}`
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parents[1]
SIDES = ("contract", "worker", "backend")  #: what the command line says never comes to a page
FIELD_FIRST = {"RequestError": "{}", "PayloadError": "{}", "LabelConfigError": "label_config", "PromptError": "prompt"}
ENDS = ("cancel", "cancelled", "cancel_waiting")  #: of records: their last argument is the reason


class Sentence(NamedTuple):
    """One that is written out where it is raised."""

    place: str  #: file:line
    code: str
    text: str  #: {} where a value stands


class _Class(NamedTuple):
    base: str
    code: str
    doc: str


def read_sentences() -> Iterator[Sentence]:
    """Of errors in the tree of contract/errors.py, of cancelled jobs, of advice on prompts and of notes on boxes."""
    trees = {path.relative_to(REPOSITORY): ast.parse(path.read_text(encoding="utf-8"))
             for side in SIDES for path in sorted((REPOSITORY / side).rglob("*.py"))}  # fmt: skip
    classes = _read_classes(trees.values())
    for path, tree in trees.items():
        known = _read_constants(tree)
        for node in ast.walk(tree):
            for code, text in _sentences_of(node, classes, known):
                yield Sentence(f"{path}:{node.lineno}", code, text)


def _read_classes(trees) -> dict[str, _Class]:
    """Name -> what a class says of itself; a class without a code has that of its base."""
    found = {"GroundcrewError": _Class("", "internal_error", "")}
    for node in (node for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)):
        codes = [item.value.value for item in node.body if isinstance(item, ast.AnnAssign | ast.Assign)
                 and "code" in ast.unparse(item).split("=")[0] and isinstance(item.value, ast.Constant)]  # fmt: skip
        base = next((name for name in map(ast.unparse, node.bases) if name in found), None)
        if base:
            doc = (ast.get_docstring(node) or "").splitlines()[0]
            found[node.name] = _Class(base, codes[0] if codes else found[base].code, doc)
    return found


def _read_constants(tree: ast.Module) -> dict[str, ast.expr]:
    """What module-level names stand for, and what functions of a single return give back."""
    constants = {ast.unparse(node.targets[0]): node.value for node in tree.body if isinstance(node, ast.Assign)}
    functions = {node.name: node.body[-1].value for node in tree.body if isinstance(node, ast.FunctionDef)
                 and len(node.body) == 1 and isinstance(node.body[-1], ast.Return)}  # fmt: skip
    return constants | functions


def _sentences_of(node: ast.AST, classes, known) -> Iterator[tuple[str, str]]:
    match node:
        case ast.Raise(exc=ast.Name(id=name)) if name in classes:
            yield classes[name].code, classes[name].doc
        case ast.Subscript(value=ast.Name(id="notes"), slice=written):
            yield "parts", _blank([written], known)
        case ast.Call(func=ast.Name(id="PromptWarning"), args=[ast.Constant(value=code), _, written]):
            yield f"warning_{code}", _blank([written], known)
        case ast.Call():
            yield from _raised_by(node, classes, known)


def _raised_by(node: ast.Call, classes, known) -> Iterator[tuple[str, str]]:
    name = ast.unparse(node.func).rpartition(".")[2]
    if name in ENDS and (text := _blank(node.args[-1:], known)):
        yield "cancelled", text
    if name in classes and not node.args:
        yield classes[name].code, classes[name].doc
    elif name in classes and name in FIELD_FIRST:
        two = name in ("RequestError", "PayloadError")
        fields = node.args[0:1] if two else [one.value for one in node.keywords if one.arg == "field"] or node.args[1:2]
        if text := _blank(node.args[1:2] if two else node.args[0:1], known):
            yield classes[name].code, f"{_blank(fields, known) or FIELD_FIRST[name]} {text}"
    elif name in classes and (text := _blank(node.args[0:1], known)):
        yield classes[name].code, text


def _blank(written: list[ast.expr], known) -> str:
    """The text of an expression with {} for each value; "" where it is not written out."""
    match written:
        case [ast.Constant(value=str(text))]:
            return text
        case [ast.JoinedStr(values=parts)]:
            return "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in parts)
        case [ast.Name(id=name)] | [ast.Call(func=ast.Name(id=name))] if name in known:
            return _blank([known[name]], {})
        case _:
            return ""
