"""What a manifest may hold, and what a selection keeps."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from discovr_ray.data.manifest import SCHEMA, are_trusted_places, read_manifest, select_clips, write_manifest
from discovr_ray.errors import ManifestError, StorageError


def row(clip_id: str, **values: Any) -> dict[str, Any]:
    base = {
        "clip_id": clip_id,
        "uri": f"/videos/{clip_id}.avi",
        "format": "avi-mjpeg",
        "num_frames": 100,
        "fps": 50.0,
        "height": 112,
        "width": 112,
        "num_bytes": 1000,
        "sha256": "0f" * 32,
        "patient_id": clip_id,
        "split": "TRAIN",
        "view": "A4C",
        "labels": "{}",
    }
    return base | values


def table(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), SCHEMA)


def write_raw(path: Path, rows: list[dict[str, Any]]) -> str:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


def test_written_and_read_back_sorted(tmp_path: Path) -> None:
    path = str(tmp_path / "new" / "manifest.parquet")
    write_manifest(table(row("b"), row("a", labels='{"ef": 55.5}'), row("c", split="")), path)
    assert read_manifest(path).equals(table(row("a", labels='{"ef": 55.5}'), row("b"), row("c", split="")))


def test_relative_uris_start_at_the_manifest(tmp_path: Path) -> None:
    rows = [row("a", uri="Videos/a.avi"), row("b", uri="/x/b.avi"), row("c", uri="s3://bucket/c.avi")]
    path = write_raw(tmp_path / "manifest.parquet", rows)
    assert read_manifest(path)["uri"].to_pylist() == [f"{tmp_path}/Videos/a.avi", "/x/b.avi", "s3://bucket/c.avi"]


def test_places_are_refused_by_their_kind_and_not_by_dots_in_names(tmp_path: Path) -> None:
    fine = ["a..b/c.avi", "..a.avi", "/x/a.avi", "file:///x/a.avi", "gs://bucket/a.avi", "own://bucket/a.avi"]
    uris = pa.chunked_array([[*fine, "other://bucket/a.avi", ".."]])
    assert are_trusted_places(uris, "own://bucket/manifest.parquet").to_pylist() == [True] * len(fine) + [False, False]


def test_other_writers_types_and_extra_columns(tmp_path: Path) -> None:
    rows = [row("b", note="x"), row("a", note="y")]  # int64 instead of int32, one column more, not sorted
    found = read_manifest(write_raw(tmp_path / "m.parquet", rows))
    assert found.schema.equals(SCHEMA)
    assert found["clip_id"].to_pylist() == ["a", "b"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_frames": 0}, r"num_frames must be above 0: clip 'b' has 0 \(1 such"),
        ({"fps": float("nan")}, "fps must be above 0"),
        ({"height": -1}, "height must be above 0"),
        ({"num_bytes": 0}, "num_bytes must be above 0"),
        ({"sha256": "abc"}, "sha256 must be 64 hex digits"),
        ({"split": "train"}, "split must be TRAIN, VAL, TEST or ''"),
        ({"uri": ""}, "uri must be set"),
        ({"uri": "../../home/someone/scan.avi"}, r"uri must be set, without '\.\.'"),
        ({"uri": "Videos/../../scan.avi"}, r"without '\.\.'"),
        ({"uri": "s3://bucket/clips/../../other/scan.avi"}, r"without '\.\.'"),
        ({"uri": "http://169.254.169.254/latest/meta-data"}, "a URI of file, s3"),
        ({"uri": "zip://a.avi::http://elsewhere/a.zip"}, "a URI of file, s3"),
        ({"uri": "filecache::s3://bucket/a.avi"}, "a URI of file, s3"),
        ({"clip_id": "a"}, "clip_id must be unique: 'a'"),
        ({"view": None}, r"column\(s\) view hold empty"),
        ({"num_frames": "many"}, "column num_frames must be int32"),
    ],
)
def test_broken_rules(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    rows = [row("a"), row("b") | values]
    if isinstance(values.get("num_frames"), str):
        rows = [item | {"num_frames": str(item["num_frames"])} for item in rows]
    with pytest.raises(ManifestError, match=message):
        read_manifest(write_raw(tmp_path / "m.parquet", rows))


def test_missing_column_file_and_format(tmp_path: Path) -> None:
    rows = [{key: value for key, value in row("a").items() if key not in ("fps", "view")}]
    with pytest.raises(ManifestError, match=r"missing column\(s\) fps, view"):
        read_manifest(write_raw(tmp_path / "m.parquet", rows))
    with pytest.raises(ManifestError, match="no such file"):
        read_manifest(str(tmp_path / "none.parquet"))
    (tmp_path / "text.parquet").write_text("hello")
    with pytest.raises(ManifestError, match="not a Parquet file"):
        read_manifest(str(tmp_path / "text.parquet"))


def test_writing_is_checked_too(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="unique"):
        write_manifest(table(row("a"), row("a")), str(tmp_path / "m.parquet"))
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=re.escape(str(tmp_path / "file" / "m.parquet"))):
        write_manifest(table(row("a")), str(tmp_path / "file" / "m.parquet"))


def labelled() -> pa.Table:
    cases = {
        "a": ("TRAIN", {"abnormal": 0, "diagnosis": "normal"}),
        "b": ("TRAIN", {"abnormal": 1, "diagnosis": "low EF"}),
        "c": ("VAL", {"abnormal": 0, "diagnosis": "normal"}),
        "d": ("TRAIN", {"ef": 60.0}),
        "e": ("TRAIN", {"abnormal": False, "diagnosis": "normal"}),
    }
    return table(*(row(key, split=split, labels=json.dumps(labels)) for key, (split, labels) in cases.items()))


@pytest.mark.parametrize(
    ("split", "label_filter", "kept"),
    [
        ("", {}, "abcde"),
        ("VAL", {}, "c"),
        ("TRAIN", {"abnormal": 0.0}, "ae"),  # a config holds 0 as 0.0; false is 0
        ("", {"diagnosis": "normal", "abnormal": 0}, "ace"),
        ("TRAIN", {"ef": 60}, "d"),
    ],
)
def test_selection(split: str, label_filter: dict[str, Any], kept: str) -> None:
    assert select_clips(labelled(), split, label_filter)["clip_id"].to_pylist() == list(kept)


@pytest.mark.parametrize(
    ("split", "label_filter", "message"),
    [
        ("TEST", {}, r"'TEST': no clip has it; clips by split: 'TRAIN': 4, 'VAL': 1"),
        ("", {"abnorml": 0}, "no clip has the label.* abnorml; there are: abnormal, diagnosis, ef"),
        ("", {"diagnosis": "sick"}, "diagnosis is one of low EF, normal"),
    ],
)
def test_empty_selection_says_what_there_is(split: str, label_filter: dict[str, Any], message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        select_clips(labelled(), split, label_filter)


@pytest.mark.parametrize("labels", ["{", "[1]", "nonsense"])
def test_labels_that_are_no_object(labels: str) -> None:
    with pytest.raises(ManifestError, match="JSON objects"):
        select_clips(table(row("a", labels=labels)), "", {"x": 1})


def test_a_selection_across_chunks() -> None:
    parts = pa.concat_tables([labelled(), table(row("z", labels='{"abnormal": 0}'))])
    assert select_clips(parts, "TRAIN", {"abnormal": 0})["clip_id"].to_pylist() == ["a", "e", "z"]
