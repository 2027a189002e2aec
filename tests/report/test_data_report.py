"""The page about a data set, from a small manifest of real files with planted faults."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import plotly.graph_objects
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import simplejpeg
from page_reader import CHROMIUM, Page, drawn_page, screenshot
from PIL import Image

from discovr_ray.config import DataConfig
from discovr_ray.data import storage
from discovr_ray.data.adapters import list_source
from discovr_ray.data.adapters.listing import Row
from discovr_ray.data.decode import decode_frames, probe
from discovr_ray.data.formats.avi_writer import write_avi
from discovr_ray.data.manifest import SCHEMA, write_manifest
from discovr_ray.errors import ManifestError
from discovr_ray.report import data_samples
from discovr_ray.report.data_facts import general, read_facts
from discovr_ray.report.data_labels import histogram, read_labels
from discovr_ray.report.data_report import DataReport, inspect_data, write_page
from discovr_ray.report.data_samples import NEAR, distances, signature

ROOT = Path(__file__).parents[2]
JOB = ROOT / "jobs" / "inspect_data.py"
DATA = DataConfig()  # 64 frames, 3 apart at 50 fps: 190 frames at 50 fps

NAMES = ("O'Neil Jane", 'Jane "Jo" Quimby', "Jane: Quimby", "Jane:Quimby")  # of folders

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def synthetic_rows(echo_folder: Path) -> Rows:
    """Manifest rows of the synthetic clips."""
    rows = []
    for row in list_source(str(echo_folder)):
        if not isinstance(row, Row):
            continue
        content = Path(row.uri).read_bytes()
        facts = probe(content)._asdict() | {"num_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        rows.append({name: value for name, value in (row._asdict() | facts).items() if name in SCHEMA.names})
    return rows


@pytest.fixture
def clean_rows(synthetic_rows: Rows) -> Rows:
    """The same, to be changed."""
    return [dict(row) for row in synthetic_rows]


def copied(row: dict[str, Any], folder: Path, name: str, **changes: Any) -> dict[str, Any]:
    """The clip once more, compressed harder and 28 pixels larger."""
    content = Path(row["uri"]).read_bytes()
    frames = decode_frames(content, row["format"], range(row["num_frames"]), row["num_frames"])
    larger = [np.asarray(Image.fromarray(frame).resize((140, 140)))[..., None] for frame in frames]
    images = [simplejpeg.encode_jpeg(np.ascontiguousarray(frame), quality=50, colorspace="GRAY") for frame in larger]
    path = folder / f"{name}.avi"
    path.write_bytes(write_avi(images, row["fps"], 140, 140))
    file = {"num_bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    return row | file | {"clip_id": name, "uri": str(path), "height": 140, "width": 140} | changes


def written(rows: Rows, folder: Path, rejected: list[str] | None = None) -> str:
    uri = str(folder / "manifest.parquet")
    write_manifest(pa.Table.from_pylist(rows, SCHEMA), uri)
    if rejected is not None:
        pq.write_table(
            pa.table({"uri": [f"/secret/{n}" for n in range(len(rejected))], "reason": rejected}),
            folder / "rejected.parquet",
        )
    return uri


def of_split(rows: Rows, split: str) -> Rows:
    return [row for row in rows if row["split"] == split]


def levels(report: DataReport) -> dict[str, str]:
    return {finding.title: finding.level for finding in report.findings}


def sentence(report: DataReport, title: str) -> str:
    return next(finding.sentence for finding in report.findings if finding.title == title)


@pytest.fixture(scope="module")
def clean(synthetic_rows: Rows, tmp_path_factory: pytest.TempPathFactory) -> tuple[DataReport, Page]:
    folder = tmp_path_factory.mktemp("clean")
    report = inspect_data(written(synthetic_rows, folder), DATA)
    return report, Page(write_page(report, str(folder / "page.html")))


def test_a_clean_data_set(clean: tuple[DataReport, Page], clean_rows: Rows) -> None:
    report, page = clean
    facts = report.facts
    assert facts.splits == {"TRAIN": 18, "VAL": 3, "TEST": 3}
    assert facts.patients == facts.splits
    assert facts.views == {"A4C": {"TEST": 3, "TRAIN": 18, "VAL": 3}}
    assert facts.num_bytes == sum(row["num_bytes"] for row in clean_rows)
    assert facts.hours == pytest.approx(sum(row["num_frames"] / row["fps"] for row in clean_rows) / 3600)
    assert sum(sum(counts.values()) for counts in facts.classes["abnormal"].values()) == 24
    assert "ef" in facts.measures
    assert report.looked.num_clips == 24
    assert report.looked.pairs == report.looked.broken == []
    titles = ("Patients in several splits", "Equal files in several splits", "Equal files", "Near-duplicates", "Splits")
    assert {levels(report)[title] for title in titles} == {"good"}
    for text in ("Data set", "24 of 24 clips were opened and compared", "There is no rejected.parquet", "112 x 112"):
        assert text in page.text


def test_every_chart_has_its_numbers(clean: tuple[DataReport, Page]) -> None:
    _, page = clean
    assert set(page.figures) >= {
        "splits",
        "views",
        "formats",
        "fps",
        "frames",
        "seconds",
        "pixels",
        "class-0",
        "measure-0",
    }
    for figure in page.figures.values():
        plotly.graph_objects.Figure(figure)  # refuses unknown properties and values
        assert sum(sum(trace["y"]) for trace in figure["data"]) > 0
    frames = page.figures["frames"]["data"]
    assert [trace["name"] for trace in frames] == ["TRAIN", "VAL", "TEST"]
    assert [sum(trace["y"]) for trace in frames] == [18, 3, 3]


def test_the_page_shows_moving_clips_and_names_no_source(clean: tuple[DataReport, Page], clean_rows: Rows) -> None:
    report, page = clean
    pictures = [values for tag, values in page.tags if tag == "img"]
    assert len(pictures) == len(report.looked.pictures) >= 5
    captions = [picture.caption for picture in report.looked.pictures]
    assert captions == sorted(captions, key=lambda text: ("TRAIN", "VAL", "TEST").index(text.split(",")[0]))
    assert {"TRAIN, abnormal 0", "TRAIN, abnormal 1"} <= set(captions)
    movie = Image.open(io.BytesIO(base64.b64decode(str(pictures[0]["src"]).split(",")[1])))
    assert (movie.n_frames, movie.size) == (24, (112, 112))
    shown = np.asarray(movie.convert("L"), float)
    assert np.abs(shown - report.looked.pictures[0].frames[0]).mean() < 6  # lossy
    script = page.source[page.source.index("<script>") :]
    visible = page.source.removesuffix(script)
    for row in clean_rows:
        assert row["patient_id"] not in visible
        assert row["uri"] not in visible
    for tag, values in page.tags:
        for name in ("src", "href"):
            assert not values.get(name) or str(values[name]).startswith(("data:", "#")), tag


def test_planted_faults_are_found(clean_rows: Rows, tmp_path: Path) -> None:
    train, test, val = (of_split(clean_rows, split) for split in ("TRAIN", "TEST", "VAL"))
    test[0]["patient_id"] = train[0]["patient_id"] = "patient-007"  # of both
    rows = [
        *clean_rows,
        copied(train[1], tmp_path, "near", split="TEST", patient_id="another"),
        train[2] | {"clip_id": "equal", "split": "VAL", "patient_id": "more"},
        train[3] | {"clip_id": "twice"},
    ]
    (tmp_path / "cut.avi").write_bytes(Path(train[4]["uri"]).read_bytes()[:-100])
    rows = [row | {"uri": str(tmp_path / "cut.avi")} if row is train[4] else row for row in rows]
    report = inspect_data(written(rows, tmp_path), DATA)
    assert report.facts.patients_in_splits.groups == 1
    assert {f"{train[0]['clip_id']} (TRAIN)", f"{test[0]['clip_id']} (TEST)"} == set(
        report.facts.patients_in_splits.examples[0]
    )
    assert report.facts.contents_in_splits.groups == 1
    assert set(report.facts.contents_in_splits.examples[0]) == {"equal (VAL)", f"{train[2]['clip_id']} (TRAIN)"}
    assert (report.facts.equal_contents.groups, report.facts.equal_contents.clips) == (2, 4)
    pairs = {frozenset(pair.clips) for pair in report.looked.pairs}
    expected = {(train[1]["clip_id"], "near"), (train[2]["clip_id"], "equal"), (train[3]["clip_id"], "twice")}
    assert pairs == {frozenset(pair) for pair in expected}
    (broken,) = report.looked.broken
    assert broken.clip_id == train[4]["clip_id"]
    assert "bytes" in broken.reason
    assert str(tmp_path) not in broken.reason
    bad = {title for title, level in levels(report).items() if level == "bad"}
    assert bad == {
        "Patients in several splits",
        "Equal files in several splits",
        "Near-duplicates",
        "Clips that cannot be opened",
    }
    page = Page(write_page(report, str(tmp_path / "page.html")))
    for text in ("near (TEST)", "equal (VAL)", broken.clip_id, "The same recording is in several splits."):
        assert text in page.text
    assert "patient-007" not in page.source
    assert str(tmp_path) not in page.source
    assert len(val) == 3


def test_a_sample_says_that_it_is_one(clean_rows: Rows, tmp_path: Path) -> None:
    uri = written(clean_rows, tmp_path)
    report = inspect_data(uri, DATA, sample=5)
    assert report.looked.num_clips == 5
    assert "The others were not compared (--sample)." in sentence(report, "Near-duplicates")
    assert levels(report)["Near-duplicates"] == "watch"
    assert "5 of 24 clips were opened and compared" in Page(write_page(report, str(tmp_path / "page.html"))).text
    nothing = inspect_data(uri, DATA, sample=0)
    assert next(item.value for item in nothing.findings if item.title == "Near-duplicates") == "not searched"


def test_empty_splits_and_classes(clean_rows: Rows, tmp_path: Path) -> None:
    for row in clean_rows:
        row["labels"] = json.dumps({"kind": "rare" if row is clean_rows[0] else "usual", "note": row["clip_id"]})
    rows = [row for row in clean_rows if row["split"] != "VAL"]
    report = inspect_data(written(rows, tmp_path), DATA, sample=0)
    assert sentence(report, "Splits") == "No clip is in VAL."
    (lacking,) = {"TRAIN", "TEST"} - {clean_rows[0]["split"]}
    assert sentence(report, "Classes of kind") == f"There is no clip with rare in {lacking}."
    assert report.facts.texts == {"note": len(rows)}
    without = [row | {"split": "", "patient_id": ""} for row in clean_rows]
    report = inspect_data(written(without, tmp_path), DATA, sample=0)
    assert levels(report)["Splits"] == levels(report)["Patients in several splits"] == "watch"
    assert report.facts.patients_in_splits.groups == 0


def test_clips_too_short_for_a_window(clean_rows: Rows) -> None:
    table = pa.Table.from_pylist(clean_rows, SCHEMA)
    expected = sum(row["num_frames"] <= int(63 * 3 * row["fps"] / 50 + 0.5) for row in clean_rows)
    assert 0 < expected < 24
    assert read_facts(table, DATA, None).short_clips == expected
    assert read_facts(table, DataConfig(num_frames=8, frame_stride=1), None).short_clips == 0


def test_reasons_of_rejected_files_without_their_sources(clean_rows: Rows, tmp_path: Path) -> None:
    reasons = [
        "truncated AVI: 1200 bytes announced, 800 there",
        "truncated AVI: 77 bytes announced, 12 there",
        "same id and content as s3://bucket/Jane Doe/a.avi",
        "/data/Jane Doe/b.avi: cannot read: no such file or folder",
        "FileList.csv: EF = 'Jane' is no number",
        "one frame: a still image, not a video",
    ]
    report = inspect_data(written(clean_rows, tmp_path, reasons), DATA, sample=0)
    assert report.facts.rejected == {
        "truncated AVI: # bytes announced, # there": 2,
        "same id and content as …": 1,
        "…: cannot read: no such file or folder": 1,
        "FileList.csv: EF = '…' is no number": 1,
        "one frame: a still image, not a video": 1,
    }
    page = Page(write_page(report, str(tmp_path / "page.html")))
    assert "Ingest left out 6 of 30 files" in page.text
    assert "secret" not in page.text


def test_names_of_files_with_quotes_and_colons_stay_off_the_page(clean_rows: Rows, tmp_path: Path) -> None:
    rejected = "/data/O'Neil: Jane/a.avi"
    pq.write_table(
        pa.table({"uri": [rejected], "reason": [f"{rejected}: gone"]}),
        tmp_path / "rejected.parquet",
    )
    gone = [clean_rows[number] | {"uri": f"/gone/{name}/a.avi"} for number, name in enumerate(NAMES)]
    page = Page(write_page(inspect_data(written(gone, tmp_path), DATA), str(tmp_path / "page.html")))
    assert "cannot read" in page.text
    for part in ("Neil", "Jane", "Quimby", "a.avi"):
        assert part not in page.source


def test_signatures() -> None:
    rng = np.random.default_rng(0)
    frames = np.repeat(np.repeat(rng.integers(0, 256, (4, 24, 24), np.uint8), 4, 1), 4, 2)
    other = np.repeat(np.repeat(rng.integers(0, 256, (4, 24, 24), np.uint8), 4, 1), 4, 2)
    brighter = np.clip(frames * 0.7 + 20, 0, 255).astype(np.uint8)
    marks = np.stack([signature(item) for item in (frames, brighter, other, np.zeros_like(frames))])
    found = distances(marks, marks)
    assert found[0, 0] == 0
    assert found[0, 1] < NEAR
    assert found[0, 2] > 0.4
    assert found[0, 3] == 1
    # by hand: signs (1, 0, -1) and (1, 1, 1) agree at one of three places that are not flat in both
    pair = np.array([[1, 0, -1, 0], [1, 1, 1, 0]], np.int8)
    assert distances(pair[:1], pair[1:])[0, 0] == pytest.approx(2 / 3)


def test_pairs_are_found_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_samples, "BLOCK", 4)
    rng = np.random.default_rng(0)
    signatures = [rng.integers(-1, 2, 500).astype(np.int8) for _ in range(11)]
    signatures[10], signatures[6] = signatures[1], signatures[5]
    names = [(f"clip-{number}", "TRAIN") for number in range(11)]
    assert {pair.clips for pair in data_samples._near(names, signatures)} == {
        ("clip-1", "clip-10"),
        ("clip-5", "clip-6"),
    }


def test_few_studies_are_no_classes_and_few_heart_rates_are_numbers() -> None:
    labels = read_labels([json.dumps({"study": "5f" * 16, "heart_rate_bpm": 60 + n}) for n in (0, 12)], ["TRAIN"] * 2)
    assert (labels.classes, labels.texts) == ({}, {"study": 1})
    assert labels.numbers["heart_rate_bpm"].tolist() == [60, 72]


def test_labels_by_their_kind() -> None:
    cells = [json.dumps({"class": n % 2, "ef": 50.0 + n, "name": f"n{n}", "flag": True, "id": n}) for n in range(20)]
    labels = read_labels([*cells, "{}"], ["TRAIN"] * 20 + ["VAL"])
    assert labels.classes["class"] == {"0": {"TRAIN": 10}, "1": {"TRAIN": 10}}
    assert labels.classes["flag"] == {"True": {"TRAIN": 20}}
    assert set(labels.numbers) == {"ef", "id"}
    assert np.isnan(labels.numbers["ef"][20])
    assert labels.texts == {"name": 20}
    found = histogram(np.array([1.0, 2.0, 2.0, 4.0, np.nan]), ["TRAIN", "TRAIN", "VAL", "VAL", "VAL"])
    assert found is not None
    assert found.edges == [0.5, 1.5, 2.5, 3.5, 4.5]
    assert found.counts == {"TRAIN": [1, 1, 0, 0], "VAL": [0, 1, 0, 1]}
    assert (found.clips, found.minimum, found.median, found.maximum) == (4, 1, 2, 4)
    assert histogram(np.array([np.nan]), ["TRAIN"]) is None
    with pytest.raises(ManifestError, match="JSON objects"):
        read_labels(["[1]"], ["TRAIN"])


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        ("frame 60 is damaged: at byte 12.5", "frame # is damaged: at byte #"),
        ("s3://bucket/p 1/x.avi: gone", "…: gone"),
        ("s3://bucket/O'Neil:1/x.avi: gone", "…: gone"),
        ("EF = '/data/O'Neil/x.avi' is no number", "EF = '…' is no number"),
        ("frames of (112, 112) pixels", "frames of (#, #) pixels"),
        ("a mask and/or values", "a mask and/or values"),
    ],
)
def test_general_reasons(reason: str, shown: str) -> None:
    assert general(reason) == shown


@pytest.fixture(scope="module")
def job() -> ModuleType:
    spec = importlib.util.spec_from_file_location("inspect_data_job", JOB)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_job(clean_rows: Rows, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    arguments = [written(clean_rows, tmp_path), "--output", str(page), "--json", "--sample", "3"]
    arguments += ["data.num_frames=8", "data.frame_stride=1", "model.tubelet_size=2"]
    done = subprocess.run([sys.executable, str(JOB), *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["facts"]["splits"] == {"TRAIN": 18, "VAL": 3, "TEST": 3}
    assert found["facts"]["short_clips"] == 0
    assert found["looked"]["num_clips"] == 3
    assert "pictures" not in found["looked"]
    assert {"level", "title", "value", "scale", "sentence"} == set(found["findings"][0])
    assert "Data set" in page.read_text()
    assert "opening clips" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("missing.parquet", "--json"), "refused: manifest .*missing.parquet: cannot read: no such file"),
        (("{}", "--json", "--class-label", "nothing"), "refused: class label 'nothing'.*there are: abnormal"),
        (("{}",), "nothing to do: --output PAGE, --json"),
        (("{}", "--json", "--sample", "-1"), "-1: must be at least 0"),
        (("{}", "--json", "data.num_framse=8"), "refused: .*num_framse"),
        (("{}", "--json", "--config", "vit_smal"), "refused: .*vit_smal"),
    ],
    ids=["manifest", "label", "nothing", "sample", "override", "config"],
)
def test_what_the_job_refuses(
    arguments: tuple[str, ...],
    message: str,
    job: ModuleType,
    clean_rows: Rows,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    uri = written(clean_rows, tmp_path)
    monkeypatch.setattr(sys, "argv", ["inspect_data.py", *(argument.replace("{}", uri) for argument in arguments)])
    try:
        code = job.main()
    except SystemExit as end:  # argparse
        code = end.code
    assert code == 2
    assert re.search(message, capsys.readouterr().err, re.DOTALL)


@pytest.mark.s3
def test_from_s3_to_s3(clean_rows: Rows, s3_server: object, tmp_path: Path) -> None:
    rows = [row | {"uri": f"Videos/{row['clip_id']}.avi"} for row in clean_rows[:4]]
    for row, place in zip(clean_rows[:4], rows, strict=True):
        storage.put_file(row["uri"], f"s3://bucket/looked/{place['uri']}")
    write_manifest(pa.Table.from_pylist(rows, SCHEMA), "s3://bucket/looked/manifest.parquet")
    report = inspect_data("s3://bucket/looked/manifest.parquet", DATA)
    assert report.looked.broken == []
    assert report.looked.num_clips == 4
    assert write_page(report, "s3://bucket/pages/data.html") == "s3://bucket/pages/data.html"
    assert storage.read_bytes("s3://bucket/pages/data.html").startswith(b"<!doctype html>")


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not on PATH")
def test_a_browser_draws_every_chart(clean_rows: Rows, tmp_path: Path) -> None:
    report = inspect_data(written(clean_rows, tmp_path), DATA, sample=0)
    uri = write_page(report, str(tmp_path / "page.html"))
    figures = Page(uri).figures
    drawn = drawn_page(uri, tmp_path)
    assert drawn.count('class="barlayer') == len(figures)
    bars = sum(1 for figure in figures.values() for trace in figure["data"] for height in trace["y"] if height)
    assert drawn.count('<g class="point">') >= bars
    pixels = screenshot(uri, tmp_path, 4000)
    blue_bars = (np.abs(pixels - (31, 95, 168)).max(axis=-1) < 30).sum()
    assert blue_bars > 20_000, "bars are visible"
