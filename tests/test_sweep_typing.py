"""Help while a sweep is typed in Compose: names, values and cells."""

import asyncio

import pytest
from harness_tui import application, run

from wantui.config import load_config
from wantui.config.setting_paths import find_sweepable_setting, list_sweepable_names
from wantui.config.settings import Settings
from wantui.tui.screens.compose import ComposeScreen
from wantui.tui.settings_rows import ErrorRow
from wantui.tui.sweep_typing import SweepSuggester, describe_typed_sweep
from wantui.tui.widgets.settings_form import SettingsForm

BENDS = "attention_bending_settings.bends=[{words: circle, mode: translate, translate_x: 0.2}]"
LORA = "lora_settings.adapters=[nano-style:0.5]"


def settings_of(*overrides: str) -> Settings:
    return load_config("nano", overrides).settings


def suggest(text: str, settings: Settings | None = None) -> str | None:
    return asyncio.run(SweepSuggester(settings or settings_of()).get_suggestion(text))


def test_every_listed_name_is_one_that_a_sweep_accepts() -> None:
    settings = settings_of(BENDS, LORA)
    names = list_sweepable_names(settings)
    assert {"cfg_scale", "lora.nano-style.strength", "bend.circle.translate_x"} <= set(names)
    for name in names:
        assert find_sweepable_setting(settings, name).path.endswith(name.rpartition(".")[2])


@pytest.mark.parametrize(
    ("typed", "suggested"),
    [
        ("cfg_s", "cfg_scale="),
        ("cfg_scale=2,4; st", "cfg_scale=2,4; steps="),
        ("width=64+hei", "width=64+height="),
        ("", None),
        ("cfg_scale=2", None),
        ("zz", None),
    ],
)
def test_name_at_the_end_is_completed(typed: str, suggested: str | None) -> None:
    assert suggest(typed) == suggested


def test_names_of_list_items_are_completed() -> None:
    assert suggest("lora.nano-style.str", settings_of(LORA)) == "lora.nano-style.strength="
    assert suggest("lora.", settings_of()) is None


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("cfg_scale", "→ completes: cfg_scale, cfg_scale_2"),
        ("cfg_scale=2..8:2; steps=4,8", "8 cells: cfg_scale 2, 4, 6, 8 x steps 4, 8"),
        ("width=64,128+height=64,128", "2 cells: width 64, 128 + height 64, 128"),
        ("steps=1..100", "100 cells: steps 1, 2, 3, 4, 5, 6, 7, ... 100"),
        ("zz", "no setting begins with zz"),
        ("cfg_scale=two", ""),
        ("seed=1,2", ""),
        ("nothing=", ""),
    ],
)
def test_cells_of_the_sweep_so_far_are_described(typed: str, shown: str) -> None:
    assert describe_typed_sweep(typed, settings_of()) == shown


def test_values_of_a_setting_are_named_after_its_equals_sign() -> None:
    assert "unipc" in describe_typed_sweep("steps=4; sampler=", settings_of())


@pytest.mark.terminal
@pytest.mark.parametrize("size", [(80, 24), (140, 40)])
def test_sweep_is_completed_and_its_cells_are_shown_while_typed(size: tuple[int, int]) -> None:
    async def test() -> None:
        async with application(size=size) as it:
            screen = it.screen(ComposeScreen)
            form = screen.query_one(SettingsForm)
            await it.until(lambda: screen.config)
            await it.press("s")
            names = [getattr(entry, "name", "") for entry in form.entries]
            form.field_list.cursor = names.index("sweeps")
            await it.press("enter", *"cfg_s")
            await it.until(lambda: "→ completes: cfg_scale" in str(form.explanation.content))
            assert not any(isinstance(entry, ErrorRow) for entry in form.entries)
            await it.press("right")
            await it.until(lambda: form.value_input.value == "cfg_scale=")
            await it.press(*"=2,4,x")  # the completion has inserted the equals sign
            assert form.value_input.value == "cfg_scale=2,4,x"
            await it.until(lambda: any(isinstance(entry, ErrorRow) for entry in form.entries))
            await it.press("backspace", "8")
            await it.until(lambda: "3 cells: cfg_scale 2, 4, 8" in str(form.explanation.content))
            assert not any(isinstance(entry, ErrorRow) for entry in form.entries)
            await it.press("enter")
            await it.until(lambda: screen.config and screen.config.settings.sweeps == "cfg_scale=2,4,8")

    run(test)
