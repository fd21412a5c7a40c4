"""Documents and docstrings name what exists: files, functions, parameters, links, commands and keys."""

import ast
import importlib.util
import re
import shlex
from collections.abc import Collection, Iterator
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import click
import pytest

from wantui.analysis.metrics import METRICS
from wantui.cli import cli
from wantui.planning.memory_plan import PLAN_SLUGS
from wantui.samplers import SCHEDULES

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


@pytest.mark.slow
def test_docstrings_describe_existing_parameters_and_attributes() -> None:
    assert not [name for path in sorted((ROOT / "wantui").rglob("*.py")) for name in undefined_names(path)]


@pytest.mark.slow
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


@pytest.mark.slow
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


DOCUMENTS = sorted(path for pattern in ("*.md", "docs/*.md", "wantui/models/nano/*.md") for path in ROOT.glob(pattern))
LINK_PATTERN = re.compile(r"\]\(([^)\s]+)\)")
PLACEHOLDER_VALUES = {"BATCH": "stars", "BATCH_DIR": "batch", "FOLDER": "batch", "CLIP": "clip.mp4"}


def find_anchors(document: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a document."""
    text = re.sub(r"^```.*?^```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_to_existing_files_and_headings(document: Path) -> None:
    broken = []
    for target in LINK_PATTERN.findall(document.read_text(encoding="utf-8")):
        if target.startswith(("https://", "http://")):
            continue
        name, _, anchor = target.partition("#")
        path = document.parent / name if name else document
        if not path.exists() or (anchor and anchor not in find_anchors(path)):
            broken.append(target)
    assert not broken


def test_manual_is_reachable_from_its_index() -> None:
    targets = set(LINK_PATTERN.findall((ROOT / "docs/README.md").read_text(encoding="utf-8")))
    assert {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"} == targets


def find_shell_commands() -> list[tuple[str, str]]:
    """Return the document and text of each command line in the `sh` blocks of the documents."""
    commands = []
    for document in DOCUMENTS:
        for block in re.findall(r"^```sh\n(.*?)^```", document.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
            for line in block.replace("\\\n", " ").splitlines():
                commands += [(document.name, part.strip()) for part in line.split("&&") if part.strip()]
    return commands


def parse_wantui_command(words: list[str]) -> None:
    """Parse the arguments of wantui as click does, without running the command."""
    command: click.Command = cli
    context = cli.make_context("wantui", list(words), resilient_parsing=True)
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(context, words[0])
        assert found is not None, words[0]
        command, words = found, words[1:]
        context = click.Context(command, parent=context, info_name=command.name)
    command.parse_args(context, [PLACEHOLDER_VALUES.get(word, word) for word in words])


def test_shell_blocks_contain_commands_that_parse() -> None:
    commands = find_shell_commands()
    assert len(commands) > 20
    wrong = []
    for document, text in commands:
        words = shlex.split(text, comments=True)
        if words[:1] != ["wantui"]:
            continue
        try:
            parse_wantui_command(words[1:])
        except (click.ClickException, AssertionError) as error:
            wrong.append(f"{document}: {text}: {error}")
    assert not wrong


def test_unknown_options_in_documents_are_found() -> None:
    with pytest.raises(click.UsageError, match="--nonsense"):
        parse_wantui_command(["queue", "ls", "--nonsense"])


def test_command_list_names_every_command() -> None:
    text = (ROOT / "docs/commands.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| `wantui")]
    context = click.Context(cli)
    missing = []
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        row = next((row for row in rows if re.search(rf"`wantui {name}[` ]", row)), "")
        names = command.list_commands(context) if isinstance(command, click.Group) else []
        missing += [name] if not row else []
        missing += [f"{name} {sub}" for sub in names if not re.search(rf"[` ]{sub}`", row)]
    assert not missing


def test_readme_contains_the_commands_of_continuous_integration() -> None:
    lines = (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()
    install = next(line for line in lines if line.startswith("pip install")).replace(" --quiet", "")
    commands = [text for document, text in find_shell_commands() if document == "README.md"]
    assert install in commands
    assert "pytest" in lines
    assert commands[commands.index(install) + 1] == "pytest"


def load_script(name: str) -> ModuleType:
    """Import a script of docs/, which is not a package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"docs/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


def test_documented_keys_equal_those_of_the_screens() -> None:
    """After a change of keys, `python docs/keys.py` writes the tables anew."""
    keys = load_script("keys")
    text = (ROOT / "docs/screens.md").read_text(encoding="utf-8")
    assert text.partition(keys.START)[2].partition(keys.END)[0] == keys.build_key_tables()


@pytest.mark.parametrize(
    ("page", "heading", "names"), [("performance.md", "plan", PLAN_SLUGS), ("configs.md", "`sampler`", SCHEDULES)]
)
def test_tables_list_every_memory_plan_and_sampler(page: str, heading: str, names: Collection[str]) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    table = text.partition(f"\n| {heading} |")[2].partition("\n\n")[0]
    first_cells = re.findall(r"^\| (.*?) \|", table, re.MULTILINE)
    assert set(re.findall("`(.*?)`", " ".join(first_cells))) == set(names)


def test_screenshots_place_each_word_by_itself() -> None:
    content = "&#160;a&#160;b&#160;&#160;&#160;&lt;c&gt;&#160;&#160;"  # 12 characters
    text = f'<text class="a" x="10" y="5" textLength="120" clip-path="url(#l)">{content}</text>'
    placed = load_script("animation").place_words(text)
    words = re.findall(r'x="([^"]+)" y="5" textLength="([^"]+)"[^>]*>([^<]*)<', placed)
    assert words == [("20", "30", "a&#160;b"), ("80", "30", "&lt;c&gt;")]


def test_animation_shows_each_frame_in_turn() -> None:
    screenshot = '<svg class="rich-terminal" viewBox="0 0 9 9" xmlns="x"><style>.t{}</style><g>%s</g></svg>'
    picture = load_script("animation").build_animation([(screenshot % "one", 1.0), (screenshot % "two", 3.0)])
    root = ElementTree.fromstring(picture)
    frames = [element for element in root if element.tag.endswith("}g")]
    assert ["".join(frame.itertext()).strip() for frame in frames] == [".t{}one", ".t{}two"]
    assert "@keyframes frame0 { 0% { visibility: visible } 25.000% { visibility: hidden } }" in picture
    assert "@keyframes frame1 { 0% { visibility: hidden } 25.000% { visibility: visible } }" in picture
    assert "animation: frame1 4s step-end infinite" in picture


def test_tour_is_an_animation_below_two_megabytes() -> None:
    tour = ROOT / "docs/screens/tour.svg"
    assert tour.stat().st_size < 2_000_000
    assert tour.read_text(encoding="utf-8").count('<g class="frame') > 10
