"""The settings form of Compose, its list of configs, and what a queued batch and its variations show."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import only_queued
from harness_screens import go_to
from harness_tui import AppUnderTest, application, run
from textual.events import Key

from wantui.config.fields import FormField, find_form_field, list_form_fields
from wantui.tui.screens.compose import ComposeScreen
from wantui.tui.screens.dialogs import TextViewer
from wantui.tui.settings_rows import (
    SETTINGS_WITHOUT_DEFAULT,
    ChoiceRow,
    ErrorRow,
    Heading,
    choose_name_width,
    describe_row,
    describe_rows,
    format_label,
    format_setting_value,
    list_settings_rows,
    pad_name,
)
from wantui.tui.widgets.settings_form import SettingsForm
from wantui.tui.wrapping import wrap_text

pytestmark = pytest.mark.terminal


@pytest.fixture(autouse=True)
def _no_engine() -> Iterator[None]:
    with only_queued():
        yield


def form_of(it: AppUnderTest) -> SettingsForm:
    return it.screen(ComposeScreen).config_pane.settings_form


def row_with(it: AppUnderTest, text: str) -> tuple[int, str]:
    """The first line of the left column that contains a text, and its number."""
    region = it.app.screen.query_one("#left").region
    lines = [line[: region.right] for line in it.text().splitlines()]
    return next((number, line) for number, line in enumerate(lines) if text in line)


def test_value_is_edited_in_its_row() -> None:
    async def test() -> None:
        async with application() as it:
            await go_to(it, "model_settings.steps")
            number, line = row_with(it, "steps ")
            await it.press("enter", "end", "5")
            edited_number, edited = row_with(it, "steps ")
            assert edited_number == number
            assert edited.index("205") == line.index("20")
            await it.press("enter")
            await it.until(lambda: "● steps" in it.text())
            assert "205  config: 20" in row_with(it, "● steps")[1]

    run(test)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("seeds", None, "none"),
        ("sweeps", None, "none"),
        ("primary_metric", None, "none"),
        ("model_settings.transformer_file", None, "none"),
        ("guidance_settings.reuse_from", None, "none"),
        ("cfg_schedule_settings.schedule", {}, "none"),
        ("lora_settings.adapters", (), "none"),
        ("model_settings.revision", None, "default"),
        ("model_settings.flow_shift", None, "default"),
        ("video_settings.frames", None, "default"),
        ("guidance_settings.eta", None, "default"),
        ("batch_name", None, "default"),
        ("prompt_settings.negative_prompt", "", '""'),
        ("attention_analysis_settings.store_attention", False, "no"),
    ],
)
def test_empty_setting_is_named_none_or_default(key: str, value: object, expected: str) -> None:
    assert find_form_field(key) is not None
    assert format_setting_value(key, value) == expected


def test_settings_without_default_exist_and_may_be_empty() -> None:
    for key in SETTINGS_WITHOUT_DEFAULT:
        field = find_form_field(key)
        assert field is not None, key
        assert field.is_optional


def test_schedule_is_edited_as_one_line() -> None:
    async def test() -> None:
        async with application() as it:
            await go_to(it, "cfg_schedule_settings.schedule")
            await it.press("enter", *("0: 4.5, 50%"))
            await it.press("enter")
            await it.until(lambda: "should be a number" in it.text())
            await it.press(*(": 3"), "enter")
            await it.until(lambda: "● schedule" in it.text())
            assert "0: 4.5, 50%: 3" in row_with(it, "● schedule")[1]

    run(test)


@pytest.mark.parametrize("key", ["r", "backspace"])
def test_one_key_resets_a_setting_to_the_value_of_the_config(key: str) -> None:
    async def test() -> None:
        async with application() as it:
            await go_to(it, "model_settings.sampler")
            await it.press("right")
            await it.until(lambda: it.app.drafts.changes == {"model_settings.sampler": "unipc-3"})
            await it.press(key)
            await it.until(lambda: not it.app.drafts.changes)
            assert "config: unipc" not in it.text()
            await it.press(key)
            await it.until(lambda: "sampler has the config's value already" in it.notifications())
            await it.press("c", key)
            await it.until(lambda: "cannot reset a setting: none is selected" in it.notifications())

    run(test)


def test_choices_open_under_the_row_and_enter_chooses_one() -> None:
    async def test() -> None:
        async with application() as it:
            await go_to(it, "model_settings.speed")
            form = form_of(it)
            await it.press("enter")
            opened = [entry.choice for entry in form.entries if isinstance(entry, ChoiceRow)]
            assert opened == ["reference", "fused", "fp8", "cached"]
            assert "bit-identical to diffusers" in it.text()
            await it.press("down")
            assert "products rounded to 8 bits, which changes the video" in str(form.explanation.content)
            await it.press("down")
            assert "skips blocks that change little" in str(form.explanation.content)
            await it.press("enter")
            await it.until(lambda: it.app.drafts.changes == {"model_settings.speed": "cached"})
            assert form.open_key is None
            current = form.entries[form.field_list.cursor]
            assert current == find_form_field("model_settings.speed")

    run(test)


@pytest.mark.parametrize(
    ("keys", "setting"),
    [
        (("escape",), "speed"),
        (("up", "up", "up"), "transformer_file"),
        (("down", "down", "down", "down"), "gpus_per_video"),
    ],
)
def test_choices_close_when_left(keys: tuple[str, ...], setting: str) -> None:
    async def test() -> None:
        async with application() as it:
            await go_to(it, "model_settings.speed")
            await it.press("enter", *keys)
            form = form_of(it)
            await it.until(lambda: form.open_key is None)
            assert not [entry for entry in form.entries if isinstance(entry, ChoiceRow)]
            assert it.app.focused is form.field_list
            assert not it.app.drafts.changes
            assert form.entries[form.field_list.cursor] == find_form_field(f"model_settings.{setting}")

    run(test)


def test_error_is_shown_under_its_row_and_removed_with_it() -> None:
    async def test() -> None:
        async with application() as it:
            await go_to(it, "model_settings.steps")
            await it.press("enter", "end", "0", "0")
            await it.until(lambda: "less than or equal to 1000" in it.text())
            number = row_with(it, "less than or equal")[0]
            assert number == row_with(it, "steps ")[0] + 1
            await it.press("escape")
            await it.until(lambda: "less than or equal to 1000" not in it.text())
            assert not [entry for entry in form_of(it).entries if isinstance(entry, ErrorRow)]

    run(test)


def test_filter_finds_settings_by_name_and_by_help() -> None:
    async def test() -> None:
        async with application() as it:
            await go_to(it, "model_settings.steps")
            await it.press("slash", *"guidance")
            form = form_of(it)
            names = {entry.name for entry in form.entries if hasattr(entry, "name")}
            assert {"cfg_scale", "cfg_scale_2", "negative_prompt"} <= names
            assert "steps" not in names
            await it.press("enter")
            assert it.app.focused is form.field_list
            assert names == {entry.name for entry in form.entries if hasattr(entry, "name")}
            await it.press("escape")
            assert form.entries == list_settings_rows()
            assert it.app.focused is form.field_list
            await it.press("slash", *"xyzzy")
            await it.until(lambda: "no setting contains 'xyzzy'; esc: show all" in it.text())
            await it.press("enter", "enter", "space", "right", "r")
            await it.press("escape")
            assert form.entries == list_settings_rows()

    run(test)


ROWS_PER_LOOK = 5
"""Rows that the cursor moves down between two looks at the form, which shows more."""


def test_every_name_is_shown_in_full_at_both_sizes() -> None:
    names = {entry.name for entry in list_settings_rows() if hasattr(entry, "name")}

    async def test(size: tuple[int, int]) -> None:
        async with application(size=size) as it:
            await go_to(it, "model_settings.steps")
            field_list, seen = form_of(it).field_list, set()
            for index in (*range(0, field_list.row_count, ROWS_PER_LOOK), field_list.row_count - 1):
                field_list.cursor = index
                await it.pilot.pause()
                shown = it.text()
                seen |= {name for name in names if f" {format_label(name)} " in shown}
            assert seen == names

    run(lambda: test((80, 24)))
    run(lambda: test((140, 40)))


def test_config_replaces_only_an_untouched_template_with_its_example() -> None:
    async def test() -> None:
        async with application() as it:
            screen = it.screen(ComposeScreen)
            await it.until(lambda: screen.config_pane.sources)
            names = [source.config_name for source in screen.config_pane.sources]

            async def choose(name: str) -> None:
                await it.press("escape", "c")
                screen.config_pane.config_list.cursor = names.index(name)
                await it.press("enter")
                await it.until(lambda: it.app.drafts.config == name)

            await choose("attention_example")
            await it.until(lambda: screen.template_editor.text.startswith("a large [red|blue] (circle)"))
            await choose("romantic_scenes")
            await it.until(lambda: screen.template_editor.text.startswith("a [romantic|platonic] kiss"))
            await it.press("t", "x")
            text = screen.template_editor.text
            await choose("nano")
            await it.pilot.pause(0.1)
            assert screen.template_editor.text == text

    run(test)


def test_cursor_starts_in_the_template() -> None:
    async def test() -> None:
        async with application(starts_in_template=True) as it:
            await it.press(*"2 stars")
            screen = it.screen(ComposeScreen)
            assert screen.template_editor.text == "2 stars"
            await it.press("escape", "2")
            assert it.app.screen.name == "queue"

    run(test)


def test_missing_device_is_reported_before_the_batch_is_queued() -> None:
    async def test() -> None:
        async with application() as it:
            it.app.drafts.changes = {"model_settings.device": "cuda:7"}
            it.screen(ComposeScreen).config_pane.load_config()
            await it.press("t")
            await it.paste("a red circle")
            await it.until(lambda: "cannot use model_settings.device: cuda:7" in it.cells("#cost DiffText"))
            assert "F5 cannot queue this batch" in it.cells("#cost DiffText")

    run(test)


def test_queued_batch_names_the_screens_that_show_it() -> None:
    async def test() -> None:
        async with application() as it:
            await it.press("t")
            await it.paste("a red circle")
            await it.until(lambda: "press F5 to queue 2 videos" in it.cells("#cost DiffText"))
            await it.press("f5")
            await it.until(lambda: "✓ batch 1 is queued; 2: queue" in it.cells("#cost DiffText"))
            await it.press("t", "x")
            await it.until(lambda: "press F5 to queue 2 videos" in it.cells("#cost DiffText"))

    run(test)


def test_varying_and_marked_words_of_a_variation_are_highlighted() -> None:
    async def test() -> None:
        async with application(size=(140, 40)) as it:
            await it.press("t")
            await it.paste("a red [red|blue] (circle)")
            screen = it.screen(ComposeScreen)
            await it.until(lambda: screen.preview)
            for index, (varying, start) in enumerate((("red", 6), ("blue", 6))):
                prompt = screen.variations._draw_prompt(screen.preview.variations[index])  # type: ignore[union-attr]
                bold = [span for span in prompt.spans if getattr(span.style, "bold", False)]
                underlined = [span for span in prompt.spans if getattr(span.style, "underline", False)]
                assert [(span.start, prompt.plain[span.start : span.end]) for span in bold] == [(start, varying)]
                assert [prompt.plain[span.start : span.end] for span in underlined] == ["circle"]
            await it.press("escape", "v", "down", "enter")
            viewer = it.screen(TextViewer)
            assert viewer.text.startswith("a red blue circle\n\nbracket 1, option 2: blue")

    run(test)


def test_varying_word_far_into_a_long_prompt_is_visible() -> None:
    async def test() -> None:
        async with application(size=(80, 24)) as it:
            await it.press("t")
            await it.paste("a circle " * 30 + "[red|blue] star")
            await it.until(lambda: "Variations: 2" in it.text())
            row = next(line for line in it.text().splitlines() if "blue star" in line)
            assert "…" in row
            line = it.screen(ComposeScreen).variations._draw_variation(1, 46)
            assert [line.plain[span.start : span.end] for span in line.spans if span.style.dim] == ["…"]  # type: ignore[union-attr]
            assert not line.style

    run(test)


def test_prompt_that_is_too_long_for_its_row_ends_after_a_word() -> None:
    async def test() -> None:
        async with application(size=(80, 24)) as it:
            await it.press("t")
            await it.paste("a large [red|blue] circle moving left over a dark background")
            await it.until(lambda: "Variations: 2" in it.text())
            variations = it.screen(ComposeScreen).variations
            for width in range(22, 50):
                line = variations._draw_variation(0, width).plain
                assert len(line) <= width
                assert "a large red circle moving left over a dark background".startswith(line.removesuffix(" …"))
                assert line.endswith(" …")

    run(test)


def test_template_variations_and_cost_are_visible_at_once_at_80_columns() -> None:
    async def test() -> None:
        async with application(size=(80, 24), starts_in_template=True) as it:
            await it.paste("a [red|blue] circle")
            await it.until(lambda: "Variations: 2" in it.text())
            shown = it.text()
            for text in ("a [red|blue] circle", "a red circle", "a blue circle", "4 = 2 variations", "time", "memory"):
                assert text in shown
            assert "disk" in shown

    run(test)


@pytest.mark.parametrize("text", ["\x1b[31m", "[/b]", "x" * 10_000, "\n"])
def test_filter_and_values_accept_any_text(text: str) -> None:
    async def test() -> None:
        async with application() as it:
            await go_to(it, "prompt_settings.negative_prompt")
            await it.press("enter")
            await it.paste(text)
            await it.press("enter", "slash")
            await it.paste(text)
            await it.press("enter", "escape")
            assert form_of(it).entries == list_settings_rows()

    run(test)


def test_open_choices_show_their_descriptions_and_the_help_has_all_of_them() -> None:
    weights = find_form_field("model_settings.weights")
    assert weights is not None
    assert weights.summary == "Storage of the transformer weights."
    assert weights.help.startswith("Storage of the transformer weights. full: as loaded. float8: half the memory; ")
    rows = list_settings_rows(open_key="model_settings.weights")
    texts = {row.choice: describe_row(row) for row in rows if isinstance(row, ChoiceRow)}
    assert texts["full"] == "full: as loaded"
    assert texts["int8"].startswith("int8: ")


def test_described_choices_are_choices_of_their_setting() -> None:
    for field in list_form_fields():
        assert set(field.choice_descriptions) <= set(field.choices), field.key


def test_search_for_changed_lists_only_the_changed_settings() -> None:
    changed_keys = {"model_settings.steps", "seeds"}
    rows = list_settings_rows("changed", changed_keys=changed_keys)
    assert {row.key for row in rows if isinstance(row, FormField)} == changed_keys
    assert list_settings_rows("changed") == []


def test_rows_of_an_unknown_query_are_empty_and_headings_have_settings() -> None:
    assert list_settings_rows("no such setting at all") == []
    rows = list_settings_rows("store")
    for row, following in zip(rows, [*rows[1:], None], strict=True):
        if isinstance(row, Heading):
            assert hasattr(following, "key")
    assert describe_row(None) == describe_row(Heading("model")) == ""


def test_few_filtered_settings_are_all_described_the_current_one_first() -> None:
    rows = list_settings_rows("sweeps")
    fields = [row for row in rows if not isinstance(row, Heading)]
    text = describe_rows(rows, fields[1], is_filtered=True)
    assert text.startswith(describe_row(fields[1]))
    assert all(describe_row(field) in text for field in fields)
    assert describe_rows(rows, fields[1], is_filtered=False) == describe_row(fields[1])
    all_rows = list_settings_rows()
    assert describe_rows(all_rows, all_rows[1], is_filtered=True) == describe_row(all_rows[1])


def test_config_list_shows_only_columns_that_fit() -> None:
    Path("configs").mkdir()
    Path("configs/broken.yaml").write_text("model_settings:\n  steps: many\n")

    async def test(size: tuple[int, int], titles: list[str]) -> None:
        async with application(size=size, starts_in_template=True) as it:
            screen = it.screen(ComposeScreen)
            await it.until(lambda: screen.config_pane.sources)
            await it.press("escape")
            if not titles:  # names alone need no header
                assert row_with(it, "╭─ c Config")[0] + 1 == row_with(it, "nano")[0]
                return
            await it.until(lambda: "name" in it.text())
            assert row_with(it, " name ")[1].strip(" │").split() == titles

    run(lambda: test((80, 24), []))
    run(lambda: test((140, 40), ["name", "model", "size", "frames"]))


def test_value_that_does_not_fit_its_row_is_shown_in_full() -> None:
    async def test() -> None:
        async with application(size=(80, 24)) as it:
            form = form_of(it)
            await it.until(lambda: form.config is not None)
            await it.press("escape", "slash", *"sweeps", "enter", "enter", *"cfg_scale=1,4,8", "enter")
            await it.until(lambda: re.search(r"● sweeps +cfg_scale=1,4,8 ", it.text()))
            assert "sweeps = " not in it.text(), "the row shows the whole value"
            await it.press("enter")
            await it.until(lambda: form.is_editing)
            region = form.value_input.region
            assert region.x == row_with(it, "● sweeps ")[1].index("sweeps ") + len("sweeps ")
            assert region.right == form.field_list.region.right
            await it.until(lambda: re.search(r"● sweeps cfg_scale=1,4,8 +│", it.text()))  # without a second value
            await it.press(*"cfg_scale=1,4,8,9,10,11,12,13,14", "enter")
            await it.until(lambda: "cfg_scale=1,4,8,9,10,11,12,13,14" in it.text() and "(config: none)" in it.text())
            await it.press("slash")
            assert "enter choose   esc clear" in it.text()
            footer = it.text().splitlines()[-1]
            assert footer.split()[:3] == ["F5", "Queue", "it"]

    run(test)


def test_name_is_padded_only_as_far_as_the_value_fits() -> None:
    assert len(pad_name("batch_name", 24, 40)) == 40 - 2 - 1 - 24
    assert len(pad_name("batch_name", 12, 40)) == choose_name_width(40)


def test_sweep_edited_in_a_filtered_list_stays_in_its_row() -> None:
    async def test() -> None:
        async with application(size=(80, 24)) as it:
            form = form_of(it)
            await it.until(lambda: form.config is not None)
            await it.press("escape", "slash", *"sweep", "enter", "enter")
            row = row_with(it, "  sweeps ")[0]
            for character in "cfg_scale=1,3,6":  # faster than the screen is drawn
                form.value_input.post_message(Key(character, character))
            await it.until(lambda: "3 cells" in it.text())
            assert form.value_input.region.y == row
            for key in ("backspace", "6"):  # without the digit, the list is invalid
                await it.press(key)
                assert form.value_input.region.y == row
            await it.press("enter")
            await it.until(lambda: not form.is_editing)
            await it.pilot.pause()
            assert form.field_list.scroll_offset.y == 0
            assert "▌● sweeps" in it.text()

    run(test)


@pytest.mark.parametrize(
    ("query", "key"),
    [
        ("store att", "attention_analysis_settings.store_attention"),
        ("sweep", "sweeps"),
        ("steps", "model_settings.steps"),
        ("noise", "model_settings.cfg_scale_2"),
    ],
)
def test_filter_puts_the_cursor_on_the_best_match(query: str, key: str) -> None:
    async def test() -> None:
        async with application(size=(80, 24)) as it:
            await go_to(it, "sweeps_baseline")
            await it.press("slash", *query)
            assert form_of(it)._get_current_field() == find_form_field(key)

    run(test)


def test_lines_break_between_a_number_and_its_unit_only_if_they_must() -> None:
    text = "36 = 2 variations x 3 cells x 6 seeds, 0.16 s per step, 12 %, 8 steps of unipc, cfg scale 4; by bracket 1"
    lines = [line.plain for line in wrap_text(text, 13, indent="")]
    assert " ".join(lines) == text
    assert lines == [
        "36 =",
        "2 variations",
        "x 3 cells",
        "x 6 seeds,",
        "0.16 s per",
        "step, 12 %,",
        "8 steps of",
        "unipc,",
        "cfg scale 4;",
        "by bracket 1",
    ]
