"""The help and the command palette: searching, moving, running an entry, and the preview of themes."""

import pytest
from harness_tui import application, run
from textual.widgets import Input

from wantui.queue.queue import Queue
from wantui.queue.state_dir import find_state_directory
from wantui.tui.actions import ACTIONS_BY_SCREEN
from wantui.tui.drafts import load_drafts
from wantui.tui.entry_search import SearchEntry, find_entries
from wantui.tui.key_names import format_keys
from wantui.tui.palette import Palette
from wantui.tui.screens.help import MIN_WIDE_HEIGHT, MIN_WIDE_WIDTH, Help
from wantui.tui.terms import RUN_STEPS, TERMS
from wantui.tui.widgets.footer import KeyFooter

pytestmark = pytest.mark.terminal

ENTRIES = [
    SearchEntry("Queue", "Retry", "r", "Put failed videos back into the queue.", list, "queue.retry"),
    SearchEntry("Queue", "Cancel", "c", "Cancel the batch, or all marked batches.", list, "queue.cancel"),
    SearchEntry("Application", "Queue", "2, F2", "Go to Queue.", list, "app.queue"),
    SearchEntry("Application", "Quit", "q, ctrl+q", "Quit.", list, "app.quit"),
]


@pytest.mark.parametrize(
    ("query", "titles"),
    [
        ("", ["Retry", "Cancel", "Queue", "Quit"]),
        ("  ", ["Retry", "Cancel", "Queue", "Quit"]),
        ("queue", ["Queue", "Retry", "Cancel"]),
        ("CANCEL batch", ["Cancel"]),
        ("ctrl+q", ["Quit"]),
        ("rty", ["Retry"]),
        ("zebra", []),
        ("[b]*(", []),
    ],
)
def test_search_finds_all_words_and_puts_matching_titles_first(query: str, titles: list[str]) -> None:
    assert [entry.title for entry in find_entries(ENTRIES, query)] == titles


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        ("question_mark,f1", "?, F1"),
        ("ctrl+p", "ctrl+p"),
        ("shift+up", "shift+↑"),
        ("slash", "/"),
        ("x,delete", "x, del"),
        ("space", "space"),
        ("K", "K"),
        ("+", "+"),
        ("f", "f"),
    ],
)
def test_keys_are_formatted_as_on_a_keyboard(names: str, shown: str) -> None:
    assert format_keys(names) == shown


@pytest.mark.parametrize(("key", "kind"), [("question_mark", Help), ("ctrl+p", Palette)])
def test_text_that_does_not_fit_its_line_is_shown_in_full_below(key: str, kind: type[Help] | type[Palette]) -> None:
    actions = ACTIONS_BY_SCREEN["library"]
    (position,) = (index for index, action in enumerate(actions) if action.id == "library.state")

    async def test() -> None:
        async with application(size=(80, 24)) as it:
            await it.press("4", key)
            await it.until(lambda: isinstance(it.app.screen, kind) and actions[0].help_text in it.text())
            name_text = f"to change this key: {actions[0].id} in tui.yaml" if kind is Help else ""
            await it.press(*["down"] * (len(RUN_STEPS) if kind is Help else 0))
            await it.until(lambda: it.cells("#entry-help").strip() == name_text)
            await it.press(*["down"] * position)
            long_text = actions[position].help_text
            await it.until(lambda: " ".join(it.cells("#entry-help").split()).startswith(long_text))

    run(test)


def test_help_offers_enter_only_for_entries_that_run() -> None:
    async def test() -> None:
        async with application(size=(120, 40)) as it:
            await it.press("2", "question_mark")
            await it.until(lambda: isinstance(it.app.screen, Help) and next(iter(RUN_STEPS.values())) in it.text())
            assert "enter Run" not in it.cells("KeyFooter"), "a step of a run"
            await it.press("tab")
            await it.until(lambda: "enter Run" in it.cells("KeyFooter"))
            await it.press("tab")
            await it.until(lambda: "enter Run" not in it.cells("KeyFooter"))
            selected = it.screen(Help).get_selected()
            assert selected is not None
            assert selected.group == "Terms"

    run(test)


def test_titles_of_a_screen_are_distinct() -> None:
    for actions in ACTIONS_BY_SCREEN.values():
        titles = [action.footer_label for action in actions]
        assert len(titles) == len(set(titles))


def test_help_lists_the_screen_the_terms_the_focused_list_and_the_application() -> None:
    async def test() -> None:
        async with application(size=(120, 40)) as it:
            await it.press("2", "question_mark")
            await it.until(lambda: isinstance(it.app.screen, Help))
            help_screen = it.screen(Help)
            groups = list(dict.fromkeys(entry.group for entry in help_screen.entries))
            assert groups == ["How a run goes", "Queue", "Terms", "List", "Application"]
            assert not any("Left" in entry.title for entry in help_screen.entries)
            names = [entry.name for entry in help_screen.entries if entry.name]
            assert names == [action.id for group in ("queue", "app") for action in ACTIONS_BY_SCREEN[group]]
            lines = it.text().splitlines()
            columns = [
                line.index(text)
                for line in lines
                for text in ("Pause or resume the batch.", "Show the batch in the library.")
                if text in line
            ]
            assert len(columns) == 2
            assert len(set(columns)) == 1, "effects are aligned"

    run(test)


def test_help_explains_a_run_and_all_terms_in_whole_lines_of_80_columns() -> None:
    async def test() -> None:
        async with application(size=(80, 24)) as it:
            await it.press("question_mark")
            await it.until(lambda: isinstance(it.app.screen, Help) and all(task in it.text() for task in RUN_STEPS))
            assert all(task in it.text() for task in RUN_STEPS.values())
            help_screen = it.screen(Help)
            width = help_screen.entry_list.row_width - 1
            explained = [entry for entry in help_screen.entries if entry.title in RUN_STEPS | TERMS]
            assert len(explained) == len(RUN_STEPS) + len(TERMS)
            assert [e.title for e in explained if help_screen.draw_entry(e, width).cell_len > width] == []

    run(test)


def test_dialog_hides_the_keys_of_the_screen_below() -> None:
    async def test() -> None:
        async with application(size=(120, 40)) as it:
            await it.until(lambda: "Queue it" in it.text().splitlines()[-1])
            await it.press("question_mark")
            await it.until(lambda: isinstance(it.app.screen, Help))
            await it.until(lambda: "Queue it" not in it.text().splitlines()[-1])
            assert "esc Close" in it.text().splitlines()[-1], "the keys of the dialog"
            assert "1 Compose" in it.text(), "the rest of the screen stays"
            await it.press("escape")
            await it.until(lambda: "Queue it" in it.text().splitlines()[-1])

    run(test)


def test_wide_help_has_the_terms_beside_the_list_and_finds_them_in_the_list() -> None:
    async def test() -> None:
        async with application(size=(140, 40)) as it:
            await it.press("2", "question_mark")
            await it.until(lambda: all(meaning in it.cells("#entry-side") for meaning in TERMS.values()))
            assert all(task in it.cells("#entry-side") for task in RUN_STEPS.values())
            assert it.text().count(TERMS["seed"]) == 1
            await it.press(*"seed")
            await it.until(lambda: it.text().count(TERMS["seed"]) == 2)

    run(test)


@pytest.mark.parametrize(("height", "is_beside"), [(MIN_WIDE_HEIGHT - 1, False), (MIN_WIDE_HEIGHT, True)])
def test_wide_help_keeps_the_terms_in_the_list_where_they_do_not_fit_beside_it(height: int, is_beside: bool) -> None:
    async def test() -> None:
        async with application(size=(MIN_WIDE_WIDTH, height)) as it:
            await it.press("2", "question_mark")
            help_screen = it.screen(Help)
            listed = {row.title for row in help_screen.shown_rows if isinstance(row, SearchEntry)}
            assert (TERMS.keys() <= listed) == (not is_beside)
            if is_beside:
                await it.until(lambda: all(meaning in it.cells("#entry-side") for meaning in TERMS.values()))

    run(test)


def test_palette_shortens_descriptions_at_the_end_of_a_clause() -> None:
    async def test() -> None:
        async with application(size=(80, 24)) as it:
            await it.press("4", "ctrl+p")
            await it.until(lambda: "Compare the recipes of the selected videos… " in it.text())

    run(test)


@pytest.mark.parametrize("term", TERMS)
def test_help_explains_a_term_and_stays_open(term: str) -> None:
    async def test() -> None:
        async with application(size=(80, 24)) as it:
            await it.press("question_mark")
            await it.until(lambda: isinstance(it.app.screen, Help))
            it.screen(Help).query_one(Input).value = term
            await it.until(lambda: term in it.text() and it.screen(Help).get_selected() is not None)
            help_screen = it.screen(Help)
            (entry,) = [entry for entry in help_screen.entries if entry.title == term]
            for _ in range(help_screen.shown_rows.index(entry)):
                await it.press("down")
            in_full_below = " ".join(it.cells("#entry-help").split())
            assert TERMS[term] in it.text() or TERMS[term] == in_full_below
            await it.press("enter")
            assert it.app.screen is help_screen

    run(test)


def test_help_scrolls_to_its_last_entry_and_skips_headings() -> None:
    async def test() -> None:
        async with application(size=(80, 24)) as it:
            await it.press("2", "question_mark")
            await it.until(lambda: isinstance(it.app.screen, Help))
            help_screen = it.screen(Help)
            selected = []
            for _ in range(len(help_screen.entries) + 3):
                selected.append(help_screen.get_selected())
                await it.press("down")
            assert list(dict.fromkeys(selected)) == help_screen.entries
            assert help_screen.entries[-1].help_text in it.text()
            await it.press("ctrl+home")
            assert help_screen.get_selected() == help_screen.entries[0]
            assert "▌" in it.text()
            await it.press("up")
            assert help_screen.get_selected() == help_screen.entries[0]
            await it.press("pagedown", "pagedown", "pagedown", "pagedown", "pagedown")
            assert help_screen.get_selected() == help_screen.entries[-1]

    run(test)


def test_tab_moves_through_the_parts_of_the_help_and_no_heading_is_in_the_last_row() -> None:
    async def test() -> None:
        async with application(size=(80, 24)) as it:
            await it.press("1", "escape", "question_mark")
            await it.until(lambda: isinstance(it.app.screen, Help))
            dialog = it.screen(Help)
            for group in ("How a run goes", "Compose", "Terms"):
                assert (entry := dialog.get_selected()) is not None
                assert entry.group == group
                await it.press(*["tab"] * (group != "Terms"))
            await it.until(lambda: TERMS["template"] in it.text())
            await it.press("shift+tab")
            assert (entry := dialog.get_selected()) is not None
            assert entry.group == "Compose"
            entry_list = dialog.entry_list
            heading = dialog.shown_rows.index("Terms")
            entry_list.scroll_to(y=heading - entry_list.size.height + 1, animate=False, force=True)
            await it.until(lambda: entry_list.get_visible_range()[1] == heading)
            assert "Terms" not in [line.strip(" │") for line in it.text().splitlines()]

    run(test)


def test_help_runs_the_entry_that_was_searched() -> None:
    async def test() -> None:
        async with application(size=(80, 24)) as it:
            await it.press("2", "question_mark")
            await it.until(lambda: isinstance(it.app.screen, Help))
            await it.press(*"whole")
            await it.press("enter")
            await it.until(lambda: not isinstance(it.app.screen, Help))
            await it.until(lambda: Queue(find_state_directory().directory).read_hold() is not None)

    run(test)


@pytest.mark.parametrize("key", ["question_mark", "ctrl+p"])
def test_escape_clears_the_filter_and_then_closes(key: str) -> None:
    async def test() -> None:
        async with application(size=(80, 24)) as it:
            await it.press("2", key)
            await it.until(lambda: isinstance(it.app.screen, Help | Palette))
            await it.press(*"zzz")
            await it.until(lambda: "no entry matches" in it.text())
            await it.press("enter", "down", "pageup")
            assert isinstance(it.app.screen, Help | Palette), "there is nothing to run"
            await it.press("escape")
            await it.until(lambda: "no entry matches" not in it.text())
            await it.press("escape")
            await it.until(lambda: it.app.screen.name == "queue")

    run(test)


def test_palette_shows_keys_beside_the_commands() -> None:
    async def test() -> None:
        async with application(size=(80, 24), keys={"queue.retry": "z"}) as it:
            await it.press("2", "ctrl+p")
            await it.until(lambda: isinstance(it.app.screen, Palette))
            await it.paste("retry")
            await it.until(
                lambda: any(
                    "Queue: Retry" in line and line.partition("│▌")[2].partition("│")[0].rstrip().endswith(" z")
                    for line in it.text().splitlines()
                )
            )

    run(test)


def test_theme_is_shown_under_the_cursor_and_returns_on_escape() -> None:
    async def test() -> None:
        async with application(size=(100, 30)) as it:

            def colours_of_header() -> set[str]:
                strips = it.app.screen._compositor.render_strips()
                return {
                    str(segment.style.bgcolor.name) for segment in strips[0] if segment.style and segment.style.bgcolor
                }

            first_colours = colours_of_header()
            await it.press("ctrl+p")
            await it.until(lambda: isinstance(it.app.screen, Palette))
            dimmed_colours = colours_of_header()
            await it.paste("theme light")
            await it.until(lambda: it.app.theme == "wantui-light")
            await it.until(lambda: colours_of_header() != dimmed_colours)
            await it.press("escape")
            await it.until(lambda: it.app.theme == "wantui-dark")
            await it.press("escape")
            await it.until(lambda: it.app.screen.name == "compose")
            await it.until(lambda: colours_of_header() == first_colours)
            assert load_drafts(find_state_directory().directory).theme is None

    run(test)


def test_theme_chosen_in_the_palette_is_kept_and_stored() -> None:
    async def test() -> None:
        async with application(size=(100, 30)) as it:
            await it.press("ctrl+p")
            await it.until(lambda: isinstance(it.app.screen, Palette))
            await it.paste("wantui-light")
            await it.press("enter")
            await it.until(lambda: it.app.screen.name == "compose" and it.app.theme == "wantui-light")
            await it.until(lambda: load_drafts(find_state_directory().directory).theme == "wantui-light")

    run(test)


def test_texts_get_the_colours_of_a_new_theme_without_being_drawn_again() -> None:
    async def test() -> None:
        async with application(size=(100, 30)) as it:
            for theme in ("textual-dark", "ansi-light", "nord", "wantui-light"):
                it.app.choose_theme(theme)
                await it.pilot.pause(0.1)
            footer = it.app.screen.query_one(KeyFooter)
            recoloured = [list(strip) for strip in footer.shown_strips]
            footer.draw_keys()
            assert recoloured == [list(strip) for strip in footer.shown_strips]

    run(test)


def test_help_and_palette_say_at_which_entry_of_how_many_the_cursor_is() -> None:
    async def test() -> None:
        async with application(size=(80, 24)) as it:
            for key in ("f1", "ctrl+p"):
                await it.press(key)
                await it.until(lambda: isinstance(it.app.screen, Help | Palette))
                screen = it.app.screen
                assert isinstance(screen, Help | Palette)
                dialog, count = screen.query_one(".entry-search"), len(screen.find_shown_entries(""))
                assert dialog.border_subtitle == f"1 of {count}"
                await it.press("down")
                assert dialog.border_subtitle == f"2 of {count}"
                await it.press("escape")
                await it.until(lambda: it.app.screen.name == "compose")

    run(test)
