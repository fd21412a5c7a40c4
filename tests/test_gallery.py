"""The gallery page in a real browser: clips in sync, filters, recipes, and no requests to a network."""

import asyncio
import errno
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from clip_batches import FRAME_COUNT, write_clip_batch
from conftest import Wantui

from wantui.gallery.batch_grid import read_batch_grid
from wantui.gallery.page import write_gallery

BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
TIMEOUT_SECONDS = 120.0
BATCH = Path("batch of #1 %20 <b>")
needs_browser = pytest.mark.skipif(BROWSER is None, reason="needs Chromium")


class Page:
    """A page in a headless browser, driven by the DevTools protocol."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.requests: list[str] = []
        self._last_id = 0

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command; return its result, and record the requests that the page makes meanwhile."""
        self._last_id += 1
        await self.socket.send_json({"id": self._last_id, "method": method, "params": parameters})
        while True:
            message = await asyncio.wait_for(self.socket.receive_json(), TIMEOUT_SECONDS)
            if message.get("method") == "Network.requestWillBeSent":
                self.requests.append(message["params"]["request"]["url"])
            if message.get("id") == self._last_id:
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result

    async def evaluate(self, script: str) -> Any:
        """Return the value of a JavaScript expression."""
        result = await self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def wait_for(self, condition: str) -> None:
        """Wait until a JavaScript expression is true."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not await self.evaluate(condition):
            assert time.monotonic() < deadline, f"never true: {condition}"
            await asyncio.sleep(0.05)


@pytest.fixture
def browser_port(tmp_path: Path) -> Iterator[int]:
    """Start a headless browser; yield the port of its DevTools."""
    assert BROWSER is not None
    profile = tmp_path / "profile"
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--mute-audio"]
    command += [f"--user-data-dir={profile}", "--remote-debugging-port=0", "--window-size=1200,2400", "about:blank"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            port_file, deadline = profile / "DevToolsActivePort", time.monotonic() + TIMEOUT_SECONDS
            while not port_file.exists() or "\n" not in port_file.read_text():
                assert process.poll() is None
                assert time.monotonic() < deadline, "the browser did not start"
                time.sleep(0.05)
            yield int(port_file.read_text().split()[0])
        finally:
            process.terminate()


async def open_page(session: aiohttp.ClientSession, port: int, path: Path) -> Page:
    async with session.put(f"http://127.0.0.1:{port}/json/new?about:blank") as reply:
        address = (await reply.json())["webSocketDebuggerUrl"]
    page = Page(await session.ws_connect(address, max_msg_size=0))
    await page.call("Network.enable")
    await page.call("Page.navigate", url=path.absolute().as_uri())
    await page.wait_for("document.readyState === 'complete' && !!document.querySelector('tbody tr')")
    return page


@needs_browser
@pytest.mark.processes
def test_gallery_plays_filters_and_explains_all_videos_offline(browser_port: int) -> None:
    manifest = write_clip_batch(BATCH, unfinished=(3,))
    (BATCH / manifest.videos[0].files["clip"]).write_bytes(b"not a clip")
    path = write_gallery(read_batch_grid(BATCH), BATCH / "gallery.html")

    async def use() -> None:
        async with aiohttp.ClientSession() as session:
            page = await open_page(session, browser_port, path)
            assert await page.evaluate("document.querySelector('h1').textContent") == BATCH.name
            assert await page.evaluate(
                "[...document.querySelectorAll('tbody th')].map((cell) => cell.textContent)"
            ) == [
                "red, circle",
                "red, square",
                "blue, circle",
                "blue, square",
            ]
            # The damaged clip and the failed video are shown as such; the other six play.
            await page.wait_for("document.querySelectorAll('.note').length === 2")
            notes = await page.evaluate("[...document.querySelectorAll('.note')].map((note) => note.textContent)")
            assert notes == ["cannot be played", "failed"]
            await page.wait_for(
                "document.querySelectorAll('video').length === 6 && "
                "[...document.querySelectorAll('video')].every((video) => video.readyState >= 2)"
            )

            # The scrubber moves all clips to the same frame.
            for frame in (3, FRAME_COUNT - 1, 0):
                await page.evaluate(
                    f"byId('scrub').value = {frame}; byId('scrub').dispatchEvent(new Event('input')); true"
                )
                await page.wait_for(
                    "[...document.querySelectorAll('video')].every((video) => "
                    f"!video.seeking && Math.floor(video.currentTime * 8) === {frame})"
                )
            assert await page.evaluate("byId('frame').textContent") == f"frame 1/{FRAME_COUNT}"

            # Filters hide the rows without the chosen options.
            await page.evaluate("[...document.querySelectorAll('#filters button')].at(1).click()")  # blue
            await page.evaluate("[...document.querySelectorAll('#filters button')].at(2).click()")  # circle
            visible_rows = "[...document.querySelectorAll('tbody tr')].map((row) => !row.hidden)"
            assert await page.evaluate(visible_rows) == [False, False, True, False]
            await page.evaluate("[...document.querySelectorAll('#filters button')].at(1).click()")
            assert await page.evaluate(visible_rows) == [True, False, True, False]

            # A click shows the recipe and the complete prompt.
            await page.evaluate("document.querySelectorAll('.cell')[5].click()")
            shown = await page.evaluate("byId('details').open && byId('details').innerText")
            video = manifest.videos[5]
            for text in (video.recipe.prompt, video.id, str(video.seed), video.recipe.sampler):
                assert text in shown
            assert all(url.startswith(("file:", "about:", "data:")) for url in page.requests), page.requests
            assert any(url.endswith("video_001.mp4") for url in page.requests)

    asyncio.run(use())


READ_COLUMNS = "[...byId('columns').children].slice(1).filter((head) => !head.hidden).map((head) => head.textContent)"
READ_ROWS = "[...byId('rows').children].filter((row) => !row.hidden).map((row) => row.children[0].textContent)"
READ_CLIPS = """[...byId('rows').children].filter((row) => !row.hidden).map((row) => [...row.children].slice(1)
    .filter((spot) => !spot.hidden).map((spot) => spot.querySelector('video').dataset.clip))"""


@needs_browser
@pytest.mark.processes
def test_gallery_of_a_sweep_has_setting_axes_filters_and_a_pinned_baseline(browser_port: int) -> None:
    sweep = ("sweeps=cfg_scale=1,4,8; steps=3,5", "sweeps_baseline=true", "model_settings.cfg_scale=4")
    manifest = write_clip_batch(BATCH, "a [red|blue] circle", more=(*sweep, "model_settings.steps=3"))
    path = write_gallery(read_batch_grid(BATCH), BATCH / "gallery.html")

    def find_clip(variation: int, scale: float, steps: int, seed: int) -> str:
        wanted = (variation, scale, steps, seed)
        (video,) = [
            video
            for video in manifest.videos
            if (video.variation, video.recipe.guidance_scale, video.recipe.steps, video.seed) == wanted
        ]
        return video.files["clip"]

    async def use() -> None:
        async with aiohttp.ClientSession() as session:
            page = await open_page(session, browser_port, path)
            # The batch's baseline is cfg_scale 4, which comes first and stays in view.
            assert await page.evaluate(READ_COLUMNS) == ["cfg_scale 4", "cfg_scale 1", "cfg_scale 8"]
            rows = [f"{c}, steps {n}, seed {s}" for c in ("red", "blue") for n in (3, 5) for s in (42, 43)]
            assert await page.evaluate(READ_ROWS) == rows
            expected = [
                [find_clip(v, scale, n, s) for scale in (4, 1, 8)] for v in (0, 1) for n in (3, 5) for s in (42, 43)
            ]
            assert await page.evaluate(READ_CLIPS) == expected
            pinned = "[...document.querySelectorAll('td.pinned')].map((spot) => getComputedStyle(spot).position)"
            assert await page.evaluate(pinned) == ["sticky"] * 8
            await page.wait_for(
                "document.querySelectorAll('video').length === 24 && "
                "[...document.querySelectorAll('video')].every((video) => video.readyState >= 2)"
            )
            await page.evaluate("byId('scrub').value = 5; byId('scrub').dispatchEvent(new Event('input')); true")
            await page.wait_for(
                "[...document.querySelectorAll('video')].every((video) => "
                "!video.seeking && Math.floor(video.currentTime * 8) === 5)"
            )

            # A filter by a value hides the other columns except the baseline; a bracket hides rows.
            press = (
                "[...document.querySelectorAll('#filters button')].find((button) => button.textContent === {}).click()"
            )
            await page.evaluate(press.format("'8'"))
            await page.evaluate(press.format("'blue'"))
            assert await page.evaluate(READ_COLUMNS) == ["cfg_scale 4", "cfg_scale 8"]
            assert await page.evaluate(READ_ROWS) == rows[4:]
            await page.evaluate(press.format("'blue'"))

            # Other axes: the seeds become the columns, and the filter still holds.
            choose = "byId('{0}').value = {1}; byId('{0}').dispatchEvent(new Event('change')); true"
            await page.evaluate(choose.format("column", 3))
            assert await page.evaluate(READ_COLUMNS) == ["seed 42", "seed 43"]
            assert await page.evaluate(READ_ROWS) == [
                f"{colour}, cfg_scale 8, steps {steps}" for colour in ("red", "blue") for steps in (3, 5)
            ]
            clips = [[find_clip(v, 8, n, s) for s in (42, 43)] for v in (0, 1) for n in (3, 5)]
            assert await page.evaluate(READ_CLIPS) == clips

            # A click on the label of a column pins it, and another releases it.
            await page.evaluate("byId('columns').children[2].firstChild.click()")
            assert await page.evaluate(READ_COLUMNS) == ["seed 43", "seed 42"]
            await page.evaluate("byId('columns').children[1].firstChild.click()")
            assert await page.evaluate(READ_COLUMNS) == ["seed 42", "seed 43"]

    asyncio.run(use())


@needs_browser
@pytest.mark.processes
def test_gallery_shows_an_additional_baseline_in_every_row(browser_port: int) -> None:
    more = ("sweeps=cfg_scale=1,8; steps=3,5", "sweeps_baseline=true", "model_settings.cfg_scale=4")
    manifest = write_clip_batch(BATCH, "a circle", seeds=1, more=more)
    path = write_gallery(read_batch_grid(BATCH), BATCH / "gallery.html")
    (baseline,) = [v for v in manifest.videos if (cell := manifest.find_cell(v)) is not None and not cell.positions]

    async def use() -> None:
        async with aiohttp.ClientSession() as session:
            page = await open_page(session, browser_port, path)
            assert await page.evaluate(READ_COLUMNS) == ["baseline", "cfg_scale 1", "cfg_scale 8"]
            assert await page.evaluate(READ_ROWS) == ["a circle, steps 3", "a circle, steps 5"]
            assert [row[0] for row in await page.evaluate(READ_CLIPS)] == [baseline.files["clip"]] * 2

    asyncio.run(use())


def test_gallery_data_cannot_end_its_script_element() -> None:
    write_clip_batch(BATCH, "a circle </script><script>alert(1)</script> <!-- & more", seeds=1)
    page = write_gallery(read_batch_grid(BATCH), BATCH / "gallery.html").read_text()
    start = page.index('<script type="application/json" id="data">')
    data = page[start:].split(">", 1)[1].split("</script>", 1)[0]
    assert json.loads(data)["template"] == "a circle </script><script>alert(1)</script> <!-- & more"
    assert page.count("<script") == 2
    assert "&lt;b&gt;" in page.split("<title>")[1].split("</title>")[0]


def test_gallery_of_selected_videos_contains_only_these(wantui: Wantui) -> None:
    write_clip_batch(BATCH)
    result = wantui("gallery", BATCH, "--variation", "red_circle", "--seed", 43)
    assert (result.code, result.out.strip()) == (0, str(BATCH / "gallery.html"))
    page = (BATCH / "gallery.html").read_text()
    assert "prompt_000/video_002.mp4" in page
    assert "prompt_000/video_001.mp4" not in page
    assert "prompt_001" not in page


def test_gallery_of_an_unwritable_folder_is_refused(wantui: Wantui, monkeypatch: pytest.MonkeyPatch) -> None:
    write_clip_batch(BATCH, "one circle", seeds=1)
    (BATCH / "gallery.html.partial").mkdir()
    (BATCH / "gallery.html.partial" / "precious").write_text("x")
    monkeypatch.setattr(
        "wantui.gallery.page.write_text_atomically", lambda *_: (_ for _ in ()).throw(OSError(30, "Read-only"))
    )
    result = wantui("gallery", BATCH)
    assert result.code == 2
    assert "cannot write" in result.err
    assert "Read-only" in result.err


def test_full_disk_is_named_with_the_advice_for_it(wantui: Wantui, monkeypatch: pytest.MonkeyPatch) -> None:
    write_clip_batch(BATCH, "one circle", seeds=1)
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr("wantui.gallery.page.write_text_atomically", lambda *_: (_ for _ in ()).throw(error))
    result = wantui("gallery", BATCH)
    path = BATCH / "gallery.html"
    assert result.err == f"wantui: cannot write {path}: No space left on device. Free disk space on its file system.\n"


def test_gallery_does_not_replace_a_folder(wantui: Wantui) -> None:
    write_clip_batch(BATCH, "one circle", seeds=1)
    (BATCH / "gallery.html").mkdir()
    result = wantui("gallery", BATCH)
    assert (result.code, result.out) == (2, "")
    assert result.err == f"wantui: cannot write {BATCH}/gallery.html: it is a folder. Rename it, and try again\n"
    assert sorted(path.name for path in BATCH.glob("gallery*")) == ["gallery.html"]
