"""Which videos the probe of a run under way looks at, and what their features say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from discovr_ray.config import Config, load_config
from discovr_ray.data.manifest import SCHEMA, write_manifest
from discovr_ray.errors import ConfigError, EvaluationError
from discovr_ray.evaluate.online import ProbeVideos, knn_balanced_accuracy, probe_videos

SPLITS = ("TRAIN", "TRAIN", "VAL", "TEST")


def rows(count: int = 40) -> list[dict[str, Any]]:
    return [
        {
            "clip_id": f"clip-{number:03d}",
            "uri": f"/videos/{number}.avi",
            "format": "avi-mjpeg",
            "num_frames": 100,
            "fps": 50.0,
            "height": 112,
            "width": 112,
            "num_bytes": 1000,
            "sha256": f"{number:064x}",
            "patient_id": f"p{number}",
            "split": SPLITS[number % 4],
            "view": "",
            "labels": json.dumps({"abnormal": number // 4 % 2} if number else {}),
        }
        for number in range(count)
    ]


def config_of(folder: Path, content: list[dict[str, Any]], **changes: Any) -> Config:
    path = str(folder / "manifest.parquet")
    write_manifest(pa.Table.from_pylist(content, SCHEMA), path)
    probe = {"every_steps": 1, "label": "abnormal", "k": 3} | changes
    return load_config("demo", [f"data.manifest={path}", *(f"probe.{name}={value}" for name, value in probe.items())])


def test_bank_and_queries_are_two_splits_and_every_video_has_the_label(tmp_path: Path) -> None:
    found = probe_videos(config_of(tmp_path, rows()))
    ids = found.rows["clip_id"].to_pylist()
    assert ids == sorted(ids)
    number = np.array([int(clip_id[5:]) for clip_id in ids])
    assert sorted(number[found.is_query].tolist()) == list(range(2, 40, 4))
    assert sorted(number[~found.is_query].tolist()) == [n for n in range(1, 40) if n % 4 < 2], "0 has no label"
    assert found.codes.tolist() == (number // 4 % 2).tolist()


def test_a_part_of_them_is_the_same_for_every_run(tmp_path: Path) -> None:
    few = probe_videos(config_of(tmp_path, rows(400), max_train=20, max_val=10))
    assert (int((~few.is_query).sum()), int(few.is_query.sum())) == (20, 10)
    again = probe_videos(config_of(tmp_path, rows(400), max_train=20, max_val=10))
    assert few.rows.equals(again.rows)
    more = probe_videos(config_of(tmp_path, rows(400), max_train=40, max_val=10))
    assert set(few.rows["clip_id"].to_pylist()) < set(more.rows["clip_id"].to_pylist())


def test_a_manifest_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "labelled").mkdir()
    labelled = config_of(tmp_path / "labelled", rows(80))
    config = config_of(tmp_path, rows(), manifest=labelled.data.manifest)
    assert len(probe_videos(config).codes) == 59


@pytest.mark.parametrize(
    ("change", "settings", "reason"),
    [
        ({"labels": "{}"}, {}, "probe.label = 'abnormal': label 'abnormal': no video has it"),
        ({"labels": '{"abnormal": 1}'}, {}, "are of class '1'; two are needed"),
        ({"split": "TRAIN"}, {}, "no video of class 0, 1 among 0 of split VAL"),
        ({"patient_id": "one"}, {}, r"1 patient\(s\) are in more than one split"),
        ({}, {"k": 20}, "probe.k = 20: must be at most the 19 videos of split TRAIN"),
    ],
)
def test_what_the_probe_cannot_use_is_refused(
    change: dict[str, str], settings: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=reason):
        probe_videos(config_of(tmp_path, [row | change for row in rows()], **settings))


def test_a_probe_without_a_label_is_no_configuration() -> None:
    with pytest.raises(ConfigError, match=r"probe\.label = '': must name a label where probe\.every_steps = 5"):
        load_config("demo", ["probe.every_steps=5"])


VIDEOS = ProbeVideos(
    rows=pa.table({"clip_id": list("abcdef")}),
    codes=np.array([0, 0, 1, 1, 0, 1]),
    is_query=np.array([False, False, False, False, True, True]),
    num_classes=2,
)
X = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1], [0.9, 0.2], [0.8, 0.1]], np.float32)


def test_balanced_accuracy_by_hand() -> None:
    """The query of class 0 lies with class 0, and so does that of class 1."""
    assert knn_balanced_accuracy(VIDEOS, X, 2, 0.07) == 0.5
    right = X.copy()
    right[5] = [0.1, 0.9]
    assert knn_balanced_accuracy(VIDEOS, right, 2, 0.07) == 1


def test_videos_without_features_are_left_out() -> None:
    without = X.copy()
    without[0] = np.nan
    assert knn_balanced_accuracy(VIDEOS, without, 2, 0.07) == 0.5
    without[1] = np.nan
    with pytest.raises(EvaluationError, match="of TRAIN, 2 videos have features, and a class is missing"):
        knn_balanced_accuracy(VIDEOS, without, 2, 0.07)
