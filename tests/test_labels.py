"""Outside labels: reading tables, joining them to videos, and testing them like metrics."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import Wantui
from scipy import stats
from synthetic_videos import synthetic_videos, use_videos

from wantui.analysis.compare import compare_groups
from wantui.analysis.label_rows import LabelError
from wantui.analysis.label_table import read_label_table
from wantui.analysis.labels import exclude_incompletely_labelled_videos, join_labels
from wantui.analysis.statistics import run_sign_flip_test
from wantui.analysis.video import Video
from wantui.errors import UserError

WriteTable = Callable[[str], Path]


@pytest.fixture
def write_table(tmp_path: Path) -> WriteTable:
    def write(text: str) -> Path:
        path = tmp_path / "labels.csv"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def make_videos(folder: Path, seeds: int = 6, phrasings: int = 1) -> list[Video]:
    """Return videos of two groups with clips, `a_0` and `b_0`."""
    return [
        replace(video, clip_path=folder / "videos" / video.variation / f"{video.seed}.mp4")
        for video in synthetic_videos(folder, {"a": 1.0, "b": 1.0}, seeds, phrasings)
    ]


def test_numbers_become_labels_and_codes_become_proportions(write_table: WriteTable) -> None:
    table = read_label_table(
        write_table('Video,quality,"seen shape",note\nx.mp4,2.5,circle,a\ny.mp4,-1e-1,"a, b",\n\nz.mp4,,,a\n')
    )
    assert table.label_names == ("quality", "seen shape=a, b", "seen shape=circle", "note=a")
    assert [row.line_number for row in table.rows] == [2, 3, 5]
    assert [row.identity for row in table.rows] == [{"video": "x.mp4"}, {"video": "y.mp4"}, {"video": "z.mp4"}]
    values = np.array([[row.values[name] for name in table.label_names] for row in table.rows])
    nan = math.nan
    assert np.array_equal(values, [[2.5, 0, 1, 1], [-0.1, 1, 0, nan], [nan, nan, nan, 1]], equal_nan=True)


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_separator_and_byte_order_mark_are_recognised(write_table: WriteTable, separator: str, mark: str) -> None:
    lines = ["variation,seed,score", "a_0,1,0.5", "b_0,2,1.5"]
    table = read_label_table(write_table(mark + "\r\n".join(lines).replace(",", separator) + "\r\n"))
    assert [row.values["score"] for row in table.rows] == [0.5, 1.5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it is empty"),
        (",,,\n", "it is empty"),
        ('"",""\n', "it is empty"),
        ("video,score\n", "no rows below its header line"),
        ("video,score\na.mp4,1\nb.mp4,1,2\n", "line 3 has 3 cells, but the header has 2. Quote text"),
        ("video,score\na.mp4\n", "line 2 has 1 cell, but the header has 2. Add the missing cells"),
        ("name,score\na.mp4,1\n", "no column identifies the video of a row"),
        ("filename,score\na.mp4,1\n", "Rename filename to video?"),
        ("variaton,seed,score\na,1,1\n", "Rename variaton to variation?"),
        ("score\n1\n", "Separate columns with commas, semicolons, tabs, vertical bars"),
        ("video,score,score\na.mp4,1,2\n", "two columns are named score"),
        ("video,,score\na.mp4,1,2\n", "column 2 has no name"),
        ("video,length\na.mp4,1\n", "column length has the name of one of wantui's metrics"),
        ("video,seed\na.mp4,1\n", "no column of labels, only video, seed"),
        ("video,score\na.mp4,1\nb.mp4,good\nc.mp4,2\n", "line 3, column score: 'good' is not a finite number"),
        ("video,score\na.mp4,1\nb.mp4,NaN\n", "line 3, column score: 'NaN' is not a finite number"),
        ("video,score\na.mp4,nan\nb.mp4,\n", "line 2, column score: 'nan' is not a finite number"),
        ("video,score\na.mp4,1e999\n", "line 2, column score: 1e999 is too large; the limit is 1e+100. Use another"),
        ("video,score\na.mp4,1\nb.mp4,-1e101\n", "line 3, column score: -1e101 is too large"),
        ("video,p\na.mp4,1e-170\nb.mp4,-3e-180\nc.mp4,\n", "all numbers of column p are smaller than 1e-100. Use an"),
        ("video,p\na.mp4,0\nb.mp4,0.01e-400\n", "all numbers of column p are smaller than 1e-100"),
        ("video;score\na.mp4;0,5\nb.mp4;1,5\n", "'0,5' has a decimal comma. Write decimals with a point"),
        ("video,code\na.mp4,x\nb.mp4,y\nc.mp4,3\n", "column code has codes, but line 4 has the number 3"),
        ("video,score\na.mp4,1_000\nb.mp4,2\n", "'1_000' is not a finite number"),
        ("video,score,empty\na.mp4,1,\n", "column empty is empty"),
        ('video,score\na.mp4,"1\n', "is not valid CSV"),
        ("video,score\na.mp4,1\x00\n", "zero bytes"),
        ("video,note\n" + "".join(f"{n}.mp4,text {n}\n" for n in range(40)), "column note has 40 different texts"),
        ("video,a,a=x\n1.mp4,x,1\n", "two columns would create the label a=x"),
    ],
)
def test_unusable_table_is_refused_with_its_place(write_table: WriteTable, text: str, message: str) -> None:
    with pytest.raises(LabelError) as caught:
        read_label_table(write_table(text))
    assert message in str(caught.value)
    assert "labels.csv" in str(caught.value)


def test_unreadable_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none.csv cannot be read: No such file"):
        read_label_table(tmp_path / "none.csv")
    with pytest.raises(UserError, match="it is a folder, not a file"):
        read_label_table(tmp_path)
    (tmp_path / "latin.csv").write_bytes("video,é\na,1\n".encode("latin-1"))
    with pytest.raises(UserError, match="it is not UTF-8"):
        read_label_table(tmp_path / "latin.csv")
    (tmp_path / "wide.csv").write_bytes("video,x\na,1\n".encode("utf-16"))
    with pytest.raises(UserError, match="it is UTF-16"):
        read_label_table(tmp_path / "wide.csv")


@pytest.mark.slow
def test_rows_find_videos_by_path_and_by_variation_and_seed(tmp_path: Path, write_table: WriteTable) -> None:
    videos = make_videos(tmp_path / "batch")
    clip = videos[3].clip_path
    for text in (
        f"video,x\n{clip},7\n",
        f"video,x\n{clip.relative_to(tmp_path)},7\n",  # type: ignore[union-attr]
        f"video,x\n{clip.relative_to(tmp_path / 'batch')},7\n",  # type: ignore[union-attr]
        "variation,seed,x\na_0,3,7\n",
        "variation,seed,x\na_0,3.0,7\n",
        "seed,x,batch,variation\n3,7,batch,a_0\n",
        f"id,x\n{videos[3].id},7\n",
    ):
        labelled = join_labels(videos, read_label_table(write_table(text)))
        assert [index for index, video in enumerate(labelled) if video.labels] == [3], text
        assert labelled[3].compute_metric("x") == 7
        assert math.isnan(labelled[0].compute_metric("x"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("video,x\nvideos/none.mp4,1\n", "line 2: no finished video of the analysed batches has the clip"),
        ("variation,seed,x\nc_0,1,1\n", "line 2: no finished video has the variation 'c_0'; there are a_0, b_0"),
        ("variation,seed,x\na_0,9,1\n", "no finished video has the seed '9'; there are 0, 1, 2, 3, 4, 5"),
        ("variation,seed,x\na_0,one,1\n", "the seed 'one' is not a whole number"),
        ("variation,seed,x\na_0,--5,1\n", "the seed '--5' is not a whole number"),
        ("variation,seed,x\na_0,,1\n", "line 2: the column seed is empty"),
        ("variation,seed,x\na_0,1,1\nb_0,1,1\na_0,1,2\n", "lines 2 and 4 are for the same video, a_0 seed 1"),
        ("video,seed,x\nvideos/a_0/1.mp4,2,1\n", "no finished video has the seed '2'; there are 1"),
    ],
)
def test_row_without_exactly_one_video_is_refused(
    tmp_path: Path, write_table: WriteTable, text: str, message: str
) -> None:
    videos = make_videos(tmp_path / "batch")
    with pytest.raises(LabelError) as caught:
        join_labels(videos, read_label_table(write_table(text)))
    assert message in str(caught.value)


@pytest.mark.slow
def test_row_that_fits_videos_of_two_batches_is_refused(tmp_path: Path, write_table: WriteTable) -> None:
    videos = [*make_videos(tmp_path / "one"), *make_videos(tmp_path / "two")]
    for text in ("variation,seed,x\na_0,1,1\n", "video,x\nvideos/a_0/1.mp4,1\n"):
        with pytest.raises(LabelError, match=r"the row matches 2 videos\. Add a column batch"):
            join_labels(videos, read_label_table(write_table(text)))
    labelled = join_labels(videos, read_label_table(write_table("video,batch,x\nvideos/a_0/1.mp4,two,1\n")))
    assert [video.folder.name for video in labelled if video.labels] == ["two"]


@pytest.mark.slow
def test_labels_are_tested_like_metrics_over_complete_seeds(tmp_path: Path, write_table: WriteTable) -> None:
    videos, random = make_videos(tmp_path / "batch", seeds=9), np.random.default_rng(4)
    values = random.normal(size=(2, 9)) + np.array([[1.0], [0.0]])
    lines = [
        f"{name}_0,{seed},{values[g, seed]},{'round' if (g + seed) % 3 else 'square'}"
        for g, name in enumerate("ab")
        for seed in range(9)
        if (g, seed) != (1, 2)  # no row
    ]
    lines[4] = f"a_0,4,{values[0, 4]},"  # an empty cell
    table = read_label_table(write_table("variation,seed,score,form\n" + "\n".join(lines)))
    labelled = exclude_incompletely_labelled_videos(join_labels(videos, table), table, table.label_names)
    assert "of 18 videos, 1 without a row and 1 with an empty cell are excluded" in labelled.description
    result = compare_groups(labelled.videos, grouping="1", primary_metric="score")
    complete = [seed for seed in range(9) if seed not in (2, 4)]
    assert result.seeds == tuple(complete)
    reasons = dict(result.exclusion_reasons)
    assert reasons["b_0 seed 2"] == "no row in labels.csv"
    assert reasons["a_0 seed 4"] == "labels.csv has no form for it"
    assert reasons["a_0 seed 2"] == "b lacks seed 2"
    score = result.differences[0]
    differences = values[0, complete] - values[1, complete]
    assert score.metric == "score"
    assert score.paired_effect.mean == pytest.approx(differences.mean())
    assert score.paired_effect.p == run_sign_flip_test(differences)
    interval = stats.ttest_1samp(differences, 0).confidence_interval()
    assert (score.paired_effect.interval_low, score.paired_effect.interval_high) == pytest.approx(
        (interval.low, interval.high)
    )
    assert math.isnan(score.relative_difference)  # a scale without a true zero has no percentages
    share = next(d for d in result.differences if d.metric == "form=round")
    rounds = np.array([[(g + seed) % 3 > 0 for seed in complete] for g in range(2)])
    assert share.paired_effect.mean == pytest.approx(rounds[0].mean() - rounds[1].mean())
    summary = result.summaries_by_metric["form=round"]["a"]
    assert summary.mean == pytest.approx(rounds[0].mean())
    assert math.isnan(summary.random_walk_mean)


@pytest.mark.parametrize("value", [0, 0.1, 3])
def test_equal_labels_of_all_videos_do_not_show_that_groups_are_alike(tmp_path: Path, value: float) -> None:
    """If each of 8 seeds has the code, the upper end of its rate among other videos is 1 - 0.05^(1/8), 31 % lower."""
    videos = make_videos(tmp_path, seeds=8)
    labelled = [replace(video, labels={"rating": value}) for video in videos]
    result = compare_groups(labelled, grouping="1", primary_metric="rating")
    assert result.verdicts[0].kind == "cannot tell"
    assert "+0 (no interval: all seeds have the same difference" in result.verdicts[0].verdict_text


@pytest.mark.slow
def test_table_without_any_complete_video_is_refused(tmp_path: Path, write_table: WriteTable) -> None:
    videos = make_videos(tmp_path / "batch")
    table = read_label_table(write_table("variation,seed,x,y\na_0,1,1,\na_0,2,,2\n"))
    with pytest.raises(LabelError, match="no selected video has all labels of the table"):
        exclude_incompletely_labelled_videos(join_labels(videos, table), table, table.label_names)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["--compare", "--groups"])
@pytest.mark.parametrize("chooses_metrics", [True, False])
def test_command_joins_labels(
    wantui: Wantui,
    tmp_path: Path,
    write_table: WriteTable,
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    chooses_metrics: bool,
) -> None:
    videos = make_videos(tmp_path / "batch")
    use_videos(monkeypatch, videos)
    path = write_table(
        "variation,seed,x\n" + "".join(f"{v},{s},{s + (v == 'a_0')}\n" for v in ("a_0", "b_0") for s in range(5))
    )
    chosen_metrics = ("--metrics", "x") if chooses_metrics else ()
    result = wantui("analyze", tmp_path, mode, "--by", 1, *chosen_metrics, "--scores", path, "--json")
    assert "of 12 videos, 2 without a row are excluded" in result.err
    record = json.loads(result.out)
    if mode == "--compare":
        difference = next(d for d in record["differences"] if d["metric"] == "x")
        assert (difference["effect"]["n"], difference["effect"]["mean"], difference["share"]) == (5, 1, None)
    else:
        assert [group["metrics"]["x"]["mean"] for group in record] == [3, 2]


@pytest.mark.slow
def test_command_refuses_labels_that_no_output_uses(
    wantui: Wantui, tmp_path: Path, write_table: WriteTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos = make_videos(tmp_path / "batch")
    use_videos(monkeypatch, videos)
    path = write_table("variation,seed,x\na_0,1,1\nb_0,1,2\n")
    result = wantui("analyze", tmp_path, "--scores", path)
    assert result.code == 2
    assert "cannot use --scores here" in result.err
    result = wantui("analyze", tmp_path, "--compare", "--metrics", "y", "--scores", path)
    assert "unknown metric 'y'" in result.err
    assert result.err.rstrip().endswith("guidance_gap_late, x")


def test_command_refuses_output_files_that_would_replace_others(
    wantui: Wantui, tmp_path: Path, write_table: WriteTable
) -> None:
    path = write_table("variation,seed,x\na_0,1,1\nb_0,1,2\n")
    written = path.read_bytes()
    result = wantui("analyze", tmp_path, "--compare", "--scores", path, "--html", path)
    assert (result.code, path.read_bytes()) == (2, written)
    assert "is not the name of an HTML file. Choose a name that ends in .html" in result.err
    result = wantui("analyze", tmp_path, "--compare", "--scores", path, "--csv", path)
    assert (result.code, path.read_bytes()) == (2, written)
    assert "is the label file of --scores and would be overwritten. Choose another file" in result.err


def test_command_says_that_it_replaces_a_table(wantui: Wantui, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    videos = synthetic_videos(tmp_path / "batch", {"a": 1.0}, seeds=2, phrasings=1)
    use_videos(monkeypatch, videos)
    path = tmp_path / "table.csv"
    assert f"written: {path}" in wantui("analyze", tmp_path, "--csv", path).err
    assert f"replaced: {path}" in wantui("analyze", tmp_path, "--csv", path).err
