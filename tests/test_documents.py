"""Documents and docstrings name what exists: files, functions and parameters."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from wantui.analysis.metrics import METRICS

ROOT = Path(__file__).parents[1]
SOURCES = ("wantui", "tests", "docs")
PLACEHOLDERS = ("NAME", "NNN")
"""Parts of names in the instructions that stand for the reader's own name."""


def parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    arguments = node.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    return {argument.arg for argument in every if argument is not None}


def assigned_attributes(method: ast.FunctionDef) -> set[str]:
    """Return the names of the attributes of `self` that a method assigns."""
    targets = [node for node in ast.walk(method) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)]
    return {node.attr for node in targets if ast.unparse(node.value) == "self"}


def documented_names(docstring: str) -> set[str]:
    """Return the names that the sections `Args:` and `Attributes:` describe."""
    section = re.search(r"^(?:Args|Attributes):\n((?:    .*\n?|\n)*)", docstring, re.MULTILINE)
    entries = re.findall(r"^    (\w+(?:, \w+)*):", section[1], re.MULTILINE) if section else []
    return {name for entry in entries for name in entry.split(", ")}


def undefined_names(path: Path) -> Iterator[str]:
    """Yield the documented parameters and attributes of a module that its code does not define."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef):
            methods = [child for child in node.body if isinstance(child, ast.FunctionDef) and child.name == "__init__"]
            fields = [child.target for child in node.body if isinstance(child, ast.AnnAssign)]
            defined = {field.id for field in fields if isinstance(field, ast.Name)}
            defined |= {name for method in methods for name in (*parameters(method), *assigned_attributes(method))}
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            defined = parameters(node)
        else:
            continue
        for name in sorted(documented_names(ast.get_docstring(node) or "") - defined):
            yield f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {name}"


def test_docstrings_describe_existing_parameters_and_attributes() -> None:
    assert not [name for path in sorted((ROOT / "wantui").rglob("*.py")) for name in undefined_names(path)]


def test_docstrings_name_existing_constants() -> None:
    code = {path: path.read_text(encoding="utf-8") for path in sorted((ROOT / "wantui").rglob("*.py"))}
    docstring = re.compile(r'"""(?:.|\n)*?"""')
    defined = set(re.findall(r"\w+", "".join(docstring.sub("", text) for text in code.values())))
    missing = []
    for path, text in code.items():
        for passage in docstring.findall(text):
            names = re.findall(r"\b[A-Z]{3,}(?:_[A-Z]+)+\b", passage)
            missing += [f"{path.relative_to(ROOT)}: {name}" for name in names if name not in defined]
    assert not missing


@pytest.mark.parametrize("document", ["ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_documents_for_contributors_name_existing_files_and_identifiers(document: str) -> None:
    text = re.sub(r"```.*?```", "", (ROOT / document).read_text(encoding="utf-8"), flags=re.DOTALL)
    paths = {path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.*") if ".git" not in path.parts}
    code = "\n".join(path.read_text(encoding="utf-8") for folder in SOURCES for path in (ROOT / folder).rglob("*.py"))
    identifiers = set(re.findall(r"\w+", code))
    missing = []
    for name in re.findall(r"`([^`\n]+)`", text):
        if any(placeholder in name for placeholder in PLACEHOLDERS):
            continue
        if re.fullmatch(r"[\w./-]+\.(py|sql|md|toml|tcss|yml)", name):
            missing += [name] if not any(path == name or path.endswith(f"/{name}") for path in paths) else []
        elif re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*(\([\w, ]*\))?", name):
            missing += [name] if name.partition("(")[0].rpartition(".")[2] not in identifiers else []
    assert not missing


def test_analysis_page_gives_the_meaning_of_every_metric() -> None:
    text = (ROOT / "docs" / "analysis.md").read_text(encoding="utf-8")
    meanings = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \| .+ \| .*\|$", text, re.MULTILINE))
    assert meanings == {name: metric.meaning for name, metric in METRICS.items()}
