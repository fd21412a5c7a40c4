"""Groups compared, attention in numbers, and what the command prints, on trajectories whose truth is known."""

import csv
import json
import math
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from conftest import TEMPLATE, Wantui, batch
from numpy.typing import NDArray

from wantui.analysis import products
from wantui.analysis.attention import over_steps, overlap, word_curves
from wantui.analysis.compare import compare
from wantui.analysis.groups import CannotCompare, describe, group_videos, groupings
from wantui.analysis.overlay import latent_frame, overlaid
from wantui.analysis.products import HeldStates, gram_of, in_memory
from wantui.analysis.read import comparable, read_batch
from wantui.analysis.trajectory import trajectory
from wantui.analysis.video import Video
from wantui.storage.attention import NoMaps, StoredMaps, open_maps
from wantui.storage.layout import BatchFolder

STATES, DIMENSION = 9, 60
SIGMAS = np.linspace(1, 0, STATES)
SETTINGS = {"steps": 8, "width": 64}


def made_up(
    folder: Path, spreads: dict[str, float], seeds: int, wordings: int = 2, lengths: float = 1.0
) -> list[Video]:
    """Videos that go straight from a seed's noise to data of a group's spread; the rest of the wording moves it."""
    videos = []
    for g, (name, spread) in enumerate(spreads.items()):
        for wording in range(wordings):
            for seed in range(seeds):
                # Trailing zeros would be the same seed as none.
                rng, of_wording = np.random.default_rng([seed, g, wording, 1]), np.random.default_rng([wording, 2])
                noise = np.random.default_rng([seed, 3]).normal(size=DIMENSION)
                end = 2 * of_wording.normal(size=DIMENSION) + spread * rng.normal(size=DIMENSION)
                bend = 0.1 * lengths * np.random.default_rng([seed, g, wording, 4]).normal(size=DIMENSION)
                path = SIGMAS[:, None] * noise + (1 - SIGMAS[:, None]) * end
                path = path + np.sin(np.pi * SIGMAS)[:, None] * bend
                place = folder / f"{name}_{wording}_{seed}.zarr"
                zarr.open_group(place, mode="w").create_array("projection", data=path.astype(np.float32))
                videos.append(
                    Video(
                        folder,
                        len(videos),
                        f"{g}{wording}{seed}",
                        f"{name}_{wording}",
                        f"{name} in wording {wording}",
                        {3: name, 7: f"wording {wording}"},
                        seed,
                        SETTINGS,
                        trajectory(path @ path.T, SIGMAS, DIMENSION),
                        dimension=DIMENSION,
                        path=place,
                        words=4,
                    )
                )
    return videos


def test_a_group_that_takes_more_room_is_found_with_its_effect(tmp_path: Path) -> None:
    found = compare(made_up(tmp_path, {"wide": 1.5, "narrow": 1.0}, seeds=12), by="1")
    (verdict,) = found.verdicts
    assert (verdict.kind, verdict.one, verdict.other) == ("differs", "wide", "narrow")
    assert verdict.p < 0.01
    spread = found.differences[0]
    assert (spread.metric, spread.effect.n) == ("spread", 12)
    assert spread.low < spread.share < spread.high
    assert found.spread is not None
    assert found.spread.p < 0.01
    assert "more spread" in verdict.text
    assert set(found.apart) == {("wide", "narrow")}
    assert found.apart["wide", "narrow"] < 0.5  # both lie around the same place


def test_groups_that_are_alike_are_called_different_as_often_as_they_should_be(tmp_path: Path) -> None:
    called = 0
    for turn in range(60):
        rng = np.random.default_rng(turn)
        values = rng.normal(size=(2, 10, DIMENSION))
        videos = []
        for g, name in enumerate(("one", "other")):
            for seed in range(10):
                place = tmp_path / f"{turn}_{g}_{seed}.zarr"
                path = np.stack([np.zeros(DIMENSION), values[g, seed] / 2, values[g, seed]])
                zarr.open_group(place, mode="w").create_array("projection", data=path.astype(np.float32))
                found = trajectory(path @ path.T, np.array([1, 0.5, 0.0]), DIMENSION)
                videos.append(
                    Video(tmp_path, 0, "", name, name, {}, seed, SETTINGS, found, dimension=DIMENSION, path=place)
                )
        called += compare(videos, metrics=["length"]).verdicts[0].kind == "differs"
    assert called / 60 <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 60)


@pytest.mark.parametrize(("seeds", "is_said"), [(11, False), (12, True)])
def test_how_often_halves_are_called_different_is_said_where_a_test_could_do_so(
    tmp_path: Path, seeds: int, is_said: bool
) -> None:
    found = compare(made_up(tmp_path, {"one": 1.0, "other": 1.0}, seeds=seeds), metrics=["length"])
    assert found.halves().startswith("random halves of one group differ in ")
    assert ("of 500 are called different" in found.halves()) == is_said


def test_seeds_are_the_unit_however_many_wordings_there_are(tmp_path: Path) -> None:
    videos = made_up(tmp_path, {"wide": 3.0, "narrow": 1.0}, seeds=4, wordings=5)
    found = compare(videos, by="1")
    assert found.seeds == (0, 1, 2, 3)
    assert len(found.groups[0].videos) == 20
    assert found.differences[0].effect.n == 4
    assert found.verdicts[0].kind == "cannot tell"
    assert "4 seeds can never give p below 0.125; make 6 at least" in found.verdicts[0].text


def test_a_small_difference_is_called_alike_only_when_it_is_shown(tmp_path: Path) -> None:
    videos = made_up(tmp_path, {"one": 0.05, "other": 0.05}, seeds=14)
    alike = compare(videos, by="1", primary="length")
    assert alike.verdicts[0].kind == "alike"
    assert "alike in length, within 5%" in alike.verdicts[0].text
    unsure = compare(videos, by="1", primary="length", margin=1e-9)
    assert unsure.verdicts[0].kind == "cannot tell"


def test_several_groups_are_compared_in_pairs_under_one_family(tmp_path: Path) -> None:
    videos = made_up(tmp_path, {"a": 1.0, "b": 1.0, "c": 2.0}, seeds=10, wordings=1)
    found = compare(videos, by="variation", metrics=["length", "turning"])
    assert [(v.one, v.other, v.kind) for v in found.verdicts] == [
        ("a_0", "b_0", "cannot tell"),
        ("a_0", "c_0", "differs"),
        ("b_0", "c_0", "differs"),
    ]
    assert found.omnibus_p < 0.01
    assert len(found.differences) == 3 * 3
    assert all(d.family_p >= d.effect.p - 0.01 for d in found.differences)
    assert any("one wording only" in warning for warning in found.warnings)


def test_only_what_all_groups_have_is_compared_and_the_rest_is_named(tmp_path: Path) -> None:
    videos = made_up(tmp_path, {"one": 1.0, "other": 1.0}, seeds=5)
    del videos[-1]  # the last seed of a wording of "other"
    found = compare(videos, by="1")
    assert found.seeds == (0, 1, 2, 3)
    assert len(found.left_out) == 3
    assert all(why == "not in every group with this seed" for _, why in found.left_out)


def test_videos_with_other_settings_are_refused_by_name_and_the_others_go_on(tmp_path: Path) -> None:
    from dataclasses import replace

    videos = made_up(tmp_path, {"one": 1.0, "other": 1.0}, seeds=5, wordings=1)
    videos[2] = replace(videos[2], settings={"steps": 20, "width": 64})
    kept, left = comparable(videos)
    assert (len(kept), len(left)) == (9, 1)
    assert left[0].why_not == "steps is 20, and 8 in most"
    assert compare(videos, by="1").seeds == (0, 1, 3, 4)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"by": "9"}, "the template has brackets 1 to 2"),
        ({"by": "colour"}, "cannot group by 'colour'"),
        ({"by": "batch"}, "there is 1 group, and a comparison needs two"),
        ({"primary": "lenght"}, "unknown metric 'lenght'"),
        ({"metrics": ["x"]}, "unknown metric 'x'"),
    ],
)
def test_what_cannot_be_compared_is_said_so(tmp_path: Path, change: dict[str, object], said: str) -> None:
    with pytest.raises(CannotCompare, match=said):
        compare(made_up(tmp_path, {"one": 1.0, "other": 1.0}, seeds=3), **change)  # type: ignore[arg-type]


def test_where_nothing_can_be_compared_the_reason_is_said(tmp_path: Path) -> None:
    one, *others = made_up(tmp_path, {"one": 1.0, "other": 1.0}, seeds=4)
    broken = [replace(video, trajectory=None, why_not="its file is gone") for video in others]
    with pytest.raises(CannotCompare, match=r"there is 1 group.*15 of 16 videos are left out, as .*: its file is gone"):
        compare([one, *broken], by="1")


def test_groups_without_common_seeds_cannot_be_compared(tmp_path: Path) -> None:
    from dataclasses import replace

    videos = made_up(tmp_path, {"one": 1.0, "other": 1.0}, seeds=3, wordings=1)
    videos = [replace(video, seed=video.seed + 100) if video.variation == "other_0" else video for video in videos]
    with pytest.raises(CannotCompare, match="have 0 seeds in common"):
        compare(videos, by="1")


def test_groups_of_two_videos_are_not_compared_in_their_spread(tmp_path: Path) -> None:
    videos = made_up(tmp_path, {"one": 1.0, "other": 1.0}, seeds=2, wordings=1)
    with pytest.raises(CannotCompare, match="spread needs 3 videos in each group, and there are 2: make more seeds"):
        compare(videos, by="1")
    found = compare(videos, by="1", primary="length")
    assert found.verdicts[0].kind == "cannot tell"
    assert "spread" not in {difference.metric for difference in found.differences}
    assert any("nothing is said of spread" in warning for warning in found.warnings)


def test_prompts_of_different_length_are_warned_of(tmp_path: Path) -> None:
    from dataclasses import replace

    videos = made_up(tmp_path, {"one": 1.0, "other": 1.0}, seeds=3)
    videos = [replace(video, words=9) if video.choices[3] == "one" else video for video in videos]
    assert any("different lengths in words" in warning for warning in compare(videos, by="1").warnings)


def test_videos_are_grouped_by_variation_bracket_or_batch(tmp_path: Path) -> None:
    videos = made_up(tmp_path, {"one": 1.0, "other": 1.0}, seeds=2)
    assert [group.name for group in group_videos(videos, "2")] == ["wording 0", "wording 1"]
    assert [group.name for group in group_videos(videos, "1,2")][1] == "one, wording 1"
    assert groupings(videos) == ["variation", "1", "2"]
    group = group_videos(videos, "1")[0]
    lengths = [video.value("length") for video in group.videos]
    said = describe(group, "length")
    assert (said.n, said.mean, said.deviation) == (
        4,
        pytest.approx(np.mean(lengths)),
        pytest.approx(np.std(lengths, ddof=1)),
    )
    assert said.walk == pytest.approx(said.mean)  # a walk keeps the step lengths
    assert math.isnan(said.flow)


def test_a_gram_matrix_made_in_blocks_is_the_whole_one(monkeypatch: pytest.MonkeyPatch) -> None:
    states = np.random.default_rng(0).normal(size=(7, 5, 40)).astype(np.float32)
    flat = states.reshape(7, -1).astype(np.float64)
    monkeypatch.setattr(products, "CHUNK", 64)
    for part in (1, 2, 3, 8):
        monkeypatch.setattr(products, "PART", part)
        for rows in (1, 2, 3, 5, 6, 7, 9):
            monkeypatch.setattr(products, "HELD_BYTES", 4 * 200 * rows)
            held = HeldStates()
            with ThreadPoolExecutor(3) as threads:
                found = threads.map(lambda _, held=held: gram_of(in_memory(states), 7, 200, held), range(6))
                assert all(gram == pytest.approx(flat @ flat.T, rel=1e-12) for gram in found)
            assert len(held.free) == len(held.values)


def test_a_state_that_cannot_be_read_keeps_no_memory_from_the_videos_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    states = list(np.random.default_rng(0).normal(size=(5, 20)).astype(np.float32))
    monkeypatch.setattr(products, "HELD_BYTES", 4 * 20 * 6)
    held = HeldStates()
    with pytest.raises(ValueError, match="broadcast"):
        gram_of(in_memory([*states[:4], states[0][:3]]), 5, 20, held)
    flat = np.stack(states).astype(np.float64)
    assert gram_of(in_memory(states), 5, 20, held) == pytest.approx(flat @ flat.T, rel=1e-12)


# Attention.


def maps_of(arrays: dict[str, NDArray[np.float64]], folder: Path) -> StoredMaps:
    group = zarr.open_group(folder / "maps.zarr", mode="w")
    for name, values in arrays.items():
        array = group.create_array(name, data=values[:, None, None].astype(np.float32))
        array.attrs["scale"] = 1.0
    n = len(next(iter(arrays.values())))
    group.create_array("steps", data=np.arange(n))
    group.create_array("sigmas", data=np.linspace(1, 0.1, n))
    group.attrs["words"] = {name: {"text": name, "pieces": [name]} for name in arrays}
    return open_maps(folder / "maps.zarr")


def test_mass_entropy_centre_and_spread_are_those_of_known_maps(tmp_path: Path) -> None:
    even, point = np.full((2, 3, 4, 8), 0.01), np.zeros((2, 3, 4, 8))
    point[:, :, 1, 6] = 0.5
    two = np.zeros((2, 3, 4, 8))
    two[:, :, 2, 1] = two[:, :, 2, 5] = 0.25
    maps = maps_of({"even": even, "point": point, "two": two}, tmp_path)
    found = word_curves(maps, "even")
    assert found.mass == pytest.approx([0.01, 0.01])
    assert found.entropy == pytest.approx([1, 1])
    assert found.centre[0, 0] == pytest.approx([0.5, 0.5])
    found = word_curves(maps, "point")
    assert found.mass == pytest.approx([0.5 / 32] * 2)
    assert found.entropy == pytest.approx([math.log(3) / math.log(96)] * 2)
    assert found.centre[1, 2] == pytest.approx([6.5 / 8, 1.5 / 4])
    assert found.spread[0] == pytest.approx([0, 0, 0], abs=1e-6)
    found = word_curves(maps, "two")
    assert found.centre[0, 0] == pytest.approx([3.5 / 8, 2.5 / 4])
    assert found.spread[0] == pytest.approx([2 / 8] * 3)
    assert overlap(maps, "point", "point") == pytest.approx([1, 1])
    assert overlap(maps, "point", "two") == pytest.approx([0, 0])
    assert overlap(maps, "even", "point") == pytest.approx([math.sqrt(3 / 96)] * 2)
    with pytest.raises(NoMaps, match="there are even, point, two"):
        word_curves(maps, "cat")


def test_a_step_without_maps_is_left_out_of_their_mean(tmp_path: Path) -> None:
    values = np.full((3, 2, 4, 4), 0.25)
    values[1] = np.nan
    maps = maps_of({"cat": values}, tmp_path)
    assert np.isfinite(over_steps(maps, "cat")).all()
    found = word_curves(maps, "cat")
    assert np.isnan(found.mass[1])
    assert np.isnan(found.entropy[1])
    assert found.entropy[[0, 2]] == pytest.approx([1, 1])


def test_frames_belong_to_latent_frames_as_the_vae_makes_them() -> None:
    assert [latent_frame(i) for i in range(10)] == [0, 1, 1, 1, 1, 2, 2, 2, 2, 3]
    frames = [np.zeros((16, 32, 3), np.uint8)] * 9
    attention = np.zeros((3, 2, 4))
    attention[1, 0, 3] = 1.0
    drawn = list(overlaid(frames, attention, 1.0))
    assert [bool(frame.any()) for frame in drawn] == [False, *[True] * 4, *[False] * 4]
    assert drawn[1][2, 30].sum() > 300
    assert drawn[1][14, 2].sum() == 0


# The command.


@pytest.fixture
def with_maps(wantui: Wantui, small: list[str]) -> BatchFolder:
    return batch(wantui("run", "-t", TEMPLATE, "--videos-per-variation", 3, "--store-attention", *small))


def test_analyze_prints_tables_json_csv_and_a_page(with_maps: BatchFolder, wantui: Wantui) -> None:
    root = with_maps.root
    videos = list(read_batch(root))
    shown = wantui("analyze", root)
    assert shown.code == 0
    assert f"{videos[0].value('turning'):.5g}" in shown.out
    records = json.loads(wantui("analyze", root, "--json").out)
    assert records[0]["metrics"]["length"]["value"] == pytest.approx(videos[0].value("length"))
    assert records[0]["metrics"]["line_share"]["random_walk"] > 0.5
    assert records[0]["metrics"]["length"]["gaussian_flow"] is not None
    assert len(records[0]["curves"]["norm"]["value"]) == 4
    groups = wantui("analyze", root, "--groups", "--metrics", "length,chord")
    assert groups.out.splitlines()[0].split()[:3] == ["group", "n", "metric"]
    assert len(groups.out.splitlines()) == 1 + 2 * 2
    one = wantui("analyze", root, "--video-id", videos[1].id[:6], "--csv", "-", "--metrics", "length")
    rows = list(csv.DictReader(one.out.splitlines()))
    assert [row["seed"] for row in rows] == ["43"]
    assert float(rows[0]["length"]) == videos[1].value("length")
    listed = wantui("analyze", root, "--list-videos").out
    assert videos[0].id in listed
    assert "trajectory, attention" in listed
    compared = wantui("analyze", root, "--compare", "--html", "page.html", "--csv", "d.csv")
    assert "cannot tell: 3 seeds" in compared.out
    page = Path("page.html").read_text()
    assert page.count("<svg") == 4
    assert "data:image/png;base64" in page
    assert not re.search(r"""(src|href)=["']?https?:""", page)  # nothing is loaded from elsewhere
    found = json.loads(wantui("analyze", root, "--compare", "--json").out)
    assert found["verdicts"][0]["kind"] == "cannot tell"
    assert len(Path("d.csv").read_text().splitlines()) == 1 + len(found["differences"])


def test_analyze_shows_attention_and_draws_it_over_the_clip(with_maps: BatchFolder, wantui: Wantui) -> None:
    shown = wantui("analyze", with_maps.root, "--attention")
    assert shown.code == 0
    assert "circle" in shown.out.splitlines()[1]
    records = json.loads(wantui("analyze", with_maps.root, "--attention", "--json").out)
    maps = open_maps(with_maps.attention(0, 1))
    assert records[0]["mass"] == pytest.approx(maps.mean("circle").mean((1, 2, 3)))
    several = wantui("analyze", with_maps.root, "--overlay", "circle")
    assert several.code == 2
    assert "6 here have attention maps" in several.err
    ids = [video.id for video in read_batch(with_maps.root)]
    drawn = wantui("analyze", with_maps.root, "--overlay", "circle", "--video-id", ids[0])
    assert drawn.code == 0
    assert Path(drawn.out.strip()).stat().st_size > 1000
    assert "no map of 'cat'" in wantui("analyze", with_maps.root, "--overlay", "cat", "--video-id", ids[0]).err


WRONG = {
    "no batch": (["nowhere"], "is not a batch folder"),
    "metric": (["BATCH", "--metrics", "lenght"], "unknown metric 'lenght'"),
    "id": (["BATCH", "--video-id", "zzz"], "no finished video 'zzz' here"),
    "margin": (["BATCH", "--compare", "--margin", "3"], "is not between 0 and 1"),
    "by": (["BATCH", "--compare", "--by", "5"], "cannot group by '5'"),
    "csv": (["BATCH", "--csv", "/proc/x.csv"], "cannot be written"),
    "page": (["BATCH", "--html", "/proc/x.html"], "cannot be written"),
}


@pytest.mark.parametrize(
    "ignored",
    [
        "--json --csv x.csv",
        "--attention --csv x.csv",
        "--list-videos --html x.html",
        "--groups --html x.html",
        "-o x.mp4",
    ],
)
def test_an_option_that_would_do_nothing_is_refused(with_maps: BatchFolder, wantui: Wantui, ignored: str) -> None:
    result = wantui("analyze", with_maps.root, *ignored.split())
    assert result.code == 2
    assert " is for " in result.err


def test_an_overlay_that_cannot_be_written_gets_a_sentence(with_maps: BatchFolder, wantui: Wantui) -> None:
    video = next(video for video in read_batch(with_maps.root) if video.attention)
    Path("file").write_text("")
    result = wantui("analyze", with_maps.root, "--overlay", "circle", "--video-id", video.id, "-o", "file/below.mp4")
    assert (result.code, "below.mp4 cannot be written: " in result.err) == (2, True)


@pytest.mark.parametrize("mistake", WRONG)
def test_a_wrong_analysis_gets_a_sentence(with_maps: BatchFolder, wantui: Wantui, mistake: str) -> None:
    arguments, said = WRONG[mistake]
    result = wantui("analyze", *(with_maps.root if word == "BATCH" else word for word in arguments))
    assert result.code == 2
    assert said in result.err
    assert "Traceback" not in result.err


def test_chunks_that_were_not_copied_are_not_read_as_zeros(with_maps: BatchFolder) -> None:
    clone = with_maps.root.with_name("copied")
    shutil.copytree(with_maps.root, clone)
    first = next(iter(sorted(clone.glob("latents/*/*.zarr"))))
    shutil.rmtree(first / "gram" / "c")
    videos = list(read_batch(clone))
    assert f"1 of the 1 chunks of {first / 'gram'} are missing" in videos[0].why_not
    assert all(video.trajectory is not None for video in videos[1:])
    maps = next(iter(sorted(clone.glob("attention_maps/*/*.zarr"))))
    shutil.rmtree(maps / "circle" / "c" / "1")
    with pytest.raises(NoMaps, match=r"1 of the \d+ chunks of .*circle are missing; copy it again"):
        open_maps(maps)


def test_a_batch_with_damage_is_analysed_but_for_what_is_damaged(with_maps: BatchFolder, wantui: Wantui) -> None:
    for part in Path(with_maps.latents(1, 1) / "gram").rglob("*"):
        if part.is_file():
            part.unlink()
    (with_maps.attention(0, 1) / "zarr.json").write_text("{")
    videos = list(read_batch(with_maps.root))
    assert videos[3].trajectory is None
    assert "cannot be read" in videos[3].why_not
    analysed = wantui("analyze", with_maps.root)
    assert analysed.code == 1  # B8: the others are analysed, and a script sees that one was not
    assert "left out: blue seed 42: its stored trajectory cannot be read" in analysed.err
    assert len(analysed.out.splitlines()) == 1 + len(videos)
    attention = wantui("analyze", with_maps.root, "--attention")
    assert attention.code == 1
    assert "left out: red seed 42" in attention.err
    both = wantui("analyze", with_maps.root, "nowhere", "--list-videos")
    assert both.code == 1
    assert "left out: nowhere is not a batch folder" in both.err
    assert len(both.out.splitlines()) == 1 + len(videos)
