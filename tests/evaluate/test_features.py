"""The table of features: what is read is what was written, and whatever cannot be used is refused with its reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from discovr_ray.errors import FeaturesError
from discovr_ray.evaluate.features import check_comparable, check_finite, read_features, videos_schema


def row(clip_id: str, **changes: Any) -> dict[str, Any]:
    plain = {
        "clip_id": clip_id,
        "patient_id": f"patient of {clip_id}",
        "split": "TRAIN",
        "labels": '{"ef": 60.5, "abnormal": false, "view": "A4C"}',
        "num_clips": 2,
        "padded_frames": 0,
        "cls": [1.0, 2.0, 3.0],
        "patches": [4.0, 5.0, 6.0],
        "model_sha256": "aa",
        "preprocessing_sha256": "bb",
    }
    return plain | changes


def write(folder: Path, *rows: dict[str, Any], schema: pa.Schema | None = None) -> str:
    pq.write_table(pa.Table.from_pylist(list(rows), schema or videos_schema(3)), folder / "videos.parquet")
    return str(folder)


def test_rows_come_sorted_with_all_they_have(tmp_path: Path) -> None:
    folder = write(tmp_path, row("b", split="TEST", cls=[7.0, 8.0, 9.0]), row("a", labels=""))
    for place in (folder, f"{folder}/videos.parquet"):
        features = read_features(place)
        assert features.clip_ids == ["a", "b"]
        assert features.patient_ids == ["patient of a", "patient of b"]
        assert features.splits == ["TRAIN", "TEST"]
        assert features.labels == [{}, {"ef": 60.5, "abnormal": False, "view": "A4C"}]
        assert features.cls.dtype == features.patches.dtype == np.float32
        assert features.cls.tolist() == [[1, 2, 3], [7, 8, 9]]
        assert features.patches.tolist() == [[4, 5, 6], [4, 5, 6]]
        assert (features.model_sha256, features.preprocessing_sha256) == ("aa", "bb")


NAN = float("nan")
BAD_ROWS = {
    "no rows": ([], "holds no video"),
    "twice": ([row("a"), row("b"), row("a")], "clip 'a' comes more than once"),
    "two models": ([row("a"), row("b", model_sha256="cc")], "rows of 2 different model_sha256: aa, cc"),
    "two preparations": ([row("a"), row("b", preprocessing_sha256="cc")], "2 different preprocessing_sha256"),
    "NaN": ([row("a"), row("b", cls=[1.0, NAN, 3.0])], r"cls: features that are not finite .* of 1 clip\(s\): 'b'"),
    "infinite": ([row("a", patches=[1.0, 2.0, float("inf")])], r"patches: features that are not finite .*'a'"),
    "split": ([row("a", split="train")], "split 'train': must be TRAIN"),
    "labels": ([row("a", labels="{")], "labels of clip 'a' are no JSON object"),
    "labels of another kind": ([row("a", labels="[1]")], "labels of clip 'a' are no JSON object"),
    "null": ([row("a", patient_id=None)], "column patient_id holds empty"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_bad_rows_are_refused(tmp_path: Path, name: str) -> None:
    rows, message = BAD_ROWS[name]
    with pytest.raises(FeaturesError, match=message):
        read_features(write(tmp_path, *rows))


def test_other_tables_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FeaturesError, match=r"videos\.parquet: .*no such file.*jobs/embed\.py"):
        read_features(str(tmp_path))
    for name in videos_schema(3).names:
        write(tmp_path, row("a"), schema=pa.schema([item for item in videos_schema(3) if item.name != name]))
        with pytest.raises(FeaturesError, match=f"column {name} is missing"):
            read_features(str(tmp_path))
    write(tmp_path, row("a", cls="x"), schema=videos_schema(3).set(6, pa.field("cls", pa.string())))
    with pytest.raises(FeaturesError, match="column cls must be fixed_size_list"):
        read_features(str(tmp_path))
    (tmp_path / "videos.parquet").write_bytes(b"no table")
    with pytest.raises(FeaturesError, match="not a Parquet file"):
        read_features(str(tmp_path))


def test_only_alike_features_are_compared(tmp_path: Path) -> None:
    bank = read_features(write(tmp_path, row("a")))
    check_comparable(bank, read_features(write(tmp_path, row("b"))))
    for name in ("model_sha256", "preprocessing_sha256"):
        with pytest.raises(FeaturesError, match=f"different {name}: .* cannot be compared"):
            check_comparable(bank, read_features(write(tmp_path, row("b", **{name: "other"}))))


def test_the_first_clips_that_are_not_finite_are_named() -> None:
    values = np.full((5, 2), np.nan, np.float32)
    values[1] = 0
    with pytest.raises(FeaturesError, match=r"x: .* of 4 clip\(s\): 'a', 'c', 'd'$"):
        check_finite(list("abcde"), values, "x")
