"""The examples of docs/json.md have the fields and types of what the commands print."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeOnce, Wantui, generate_batch

from wantui.batches.enqueue import enqueue_batch
from wantui.queue.queue import Queue
from wantui.queue.state_dir import find_state_directory
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import read_manifest

DOCUMENT = Path(__file__).parents[1] / "docs/json.md"
KEYED_BY_NAME = frozenset(
    {
        "counts",
        "shows",
        "metrics",
        "curves",
        "strides",
        "values",
        "overlap",
        "gaussian_flow",
        "changed",
        "p_by_metric",
        "any_difference_p",
        "calibration",
    }
)
"""Fields whose objects have the names of states, metrics, words or groups as keys."""
SIZE = ("--set", "video_settings.width=32", "--set", "video_settings.height=32", "--set", "video_settings.frames=5")
DEVICE = ("--set", "model_settings.device=cpu", "--set", "model_settings.steps=4")
METRIC = ("--metrics", "straightness", "--json")

pytestmark = pytest.mark.torch


def read_examples() -> dict[str, Any]:
    """Return the example of each section, by its command."""
    sections = re.findall(r"^## `wantui (.*?)`\n.*?^```json\n(.*?)^```", DOCUMENT.read_text("utf-8"), re.DOTALL | re.M)
    return {command: json.loads(example) for command, example in sections}


def find_differences(example: Any, actual: Any, path: str = "$") -> list[str]:
    """Return the paths at which an example and an actual value have other fields or types; null fits any type."""
    if example is None or actual is None:
        return []
    if isinstance(example, dict) and isinstance(actual, dict):
        is_keyed_by_name = path.rpartition(".")[2].rstrip("[]") in KEYED_BY_NAME
        unequal = [] if is_keyed_by_name else sorted(example.keys() ^ actual.keys())
        return [f"{path}.{key}: only in one" for key in unequal] + [
            difference
            for key in example.keys() & actual.keys()
            for difference in find_differences(example[key], actual[key], f"{path}.{key}")
        ]
    if isinstance(example, list) and isinstance(actual, list):
        return find_differences(example[0], actual[0], f"{path}[]") if example and actual else []
    kinds = {str: str, bool: bool, int: float, float: float}
    same = kinds.get(type(example)) is not None and kinds.get(type(example)) is kinds.get(type(actual))
    return [] if same else [f"{path}: {type(example).__name__}, not {type(actual).__name__}"]


@pytest.fixture
def batch(make_once: MakeOnce) -> Path:
    options = ("-t", "a [red|blue] (circle)", "-n", "4", "--store-attention", "--store-latents")
    contributions = ("--set", "contribution_settings.store_contributions=true")
    made = make_once("json-documents", lambda folder: generate_batch(folder, *options, *contributions, *SIZE, *DEVICE))
    return made / "batch"


@pytest.fixture
def generic_batch(make_once: MakeOnce) -> Path:
    """Return a batch with the generic prompt of the concepts in `batch`, and with its seeds."""
    made = make_once(
        "generic", lambda folder: generate_batch(folder, "-t", "a coloured circle", "-n", "4", *SIZE, *DEVICE)
    )
    return made / "batch"


@pytest.fixture
def switched_batch(make_once: MakeOnce) -> Path:
    """Return a batch whose prompt switches to the generic prompt at one of two steps, beside references."""
    values = ",".join(f"\"{{'{step}': 'a shape'}}\"" for step in (1, 2))
    options = (
        "-t",
        "a [circle|ring]",
        "-n",
        "2",
        "--sweep",
        f"prompt_schedule_settings.schedule={values}",
        "--baseline",
    )
    switch = ("--set", "prompt_schedule_settings.interpolation=step", "--set", "model_settings.steps=4")
    made = make_once("switched", lambda folder: generate_batch(folder, *options, *SIZE, *switch))
    return made / "batch"


@pytest.mark.usefixtures("torch_not_imported")
@pytest.mark.processes
def test_documented_json_has_the_fields_of_the_output(
    wantui: Wantui, batch: Path, generic_batch: Path, switched_batch: Path
) -> None:
    folder = BatchFolder(batch.resolve())
    with Queue(find_state_directory().directory) as queue:
        enqueue_batch(queue, folder, read_manifest(folder), "cpu", missing_videos=(), is_new=True)
    arguments = {
        "queue ls --json": ("queue", "ls", "--all", "--json"),
        "queue show BATCH --json": ("queue", "show", 1, "--json"),
        "engine status --json": ("engine", "status", "--json"),
        "library ls --json": ("library", "ls", batch.parent, "--json"),
        "library show FOLDER --json": ("library", "show", batch, "--json"),
        "library check BATCH... --json": ("library", "check", batch, "--json"),
        "analyze BATCH --list-videos --json": ("analyze", batch, "--list-videos", "--json"),
        "analyze BATCH... --json": ("analyze", batch, *METRIC),
        "analyze BATCH... --groups --json": ("analyze", batch, "--groups", "--by", 1, *METRIC),
        "analyze BATCH... --compare --json": ("analyze", batch, "--compare", "--by", 1, *METRIC),
        "analyze BATCH... --decodability --json": ("analyze", batch, "--decodability", "--by", 1, "--json"),
        "analyze BATCH... --shares --json": ("analyze", batch, "--shares", "--by", 1, "--json"),
        "analyze BATCH... --correlate --json": ("analyze", batch, "--correlate", *METRIC),
        "analyze BATCH... --attention --json": ("analyze", batch, "--attention", "--json"),
        "analyze BATCH... --contributions --json": ("analyze", batch, "--contributions", "--json"),
        "commitment show BATCH... --json": ("commitment", "show", switched_batch, "--json"),
        "generic show BATCH... --json": ("generic", "show", generic_batch, "--reference", batch, "--json"),
        "ablate BATCH --json": ("ablate", batch, "--variation", "red", "--steps", "0", "--json"),
        "decode BATCH --json": ("decode", batch, "--fast", "--steps", "1", "--json"),
        "score BATCH --json": ("score", batch, "--generic", "red|blue: coloured", "--device", "cpu", "--json"),
        "attention BATCH --json": ("attention", batch, "--json"),
        "similarity BATCH --baseline WHICH --json": ("similarity", batch, "--baseline", "blue", "--json"),
        "preview --json": ("preview", "-t", "a [red|blue] (circle)", "--json"),
        "rerun CLIP --json": ("rerun", batch / "videos/prompt_000/video_001.mp4", "--json"),
        "config validate CONFIG... --json": ("config", "validate", "nano", "--json"),
        "config show CONFIG --json": ("config", "show", "nano", "--json"),
        "models ls --json": ("models", "ls", "--json"),
        "models adapters --json": ("models", "adapters", "--json"),
        "gpu --json": ("gpu", "--json"),
        "doctor --json": ("doctor", "--json"),
    }
    examples = read_examples()
    assert examples.keys() == arguments.keys()
    differences = []
    for command, words in arguments.items():
        result = wantui(*words)
        assert result.out, (command, result.err)
        differences += [f"{command}: {text}" for text in find_differences(examples[command], json.loads(result.out))]
    assert not differences


def test_shape_comparison_finds_other_fields_and_types() -> None:
    assert find_differences({"a": 1, "b": [{"c": "x"}]}, {"a": 2.5, "b": [{"c": "y"}, {"c": 1}]}) == []
    assert find_differences({"a": 1}, {"b": 1}) == ["$.a: only in one", "$.b: only in one"]
    assert find_differences({"a": [1]}, {"a": ["x"]}) == ["$.a[]: int, not str"]
    assert find_differences({"a": True}, {"a": 1}) == ["$.a: bool, not int"]
    assert find_differences({"counts": {"done": 1}}, {"counts": {"failed": 1}}) == []
