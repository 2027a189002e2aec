"""The folder of embeddings: one encoder's alone, every video in exactly one table, nothing of a killed job lost."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from discovr_ray.data.manifest import SCHEMA
from discovr_ray.errors import FeaturesError
from discovr_ray.evaluate.embedding import Decoded, Preprocessing
from discovr_ray.evaluate.feature_folder import Failure, FeatureFolder, FolderSettings
from discovr_ray.evaluate.features import read_features

PREPARED = Preprocessing(4, 64, 3, 0.0, "fit_stride", (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), 3)
SETTINGS = FolderSettings("model", 2, PREPARED, "fp32", "runs/mine")
SOURCES = {"a": "1", "b": "2", "c": "3"}


@pytest.fixture
def folder(tmp_path: Path) -> FeatureFolder:
    found = FeatureFolder(str(tmp_path), SETTINGS)
    found.claim()
    return found


def video(folder: FeatureFolder, clip_id: str, *cls: float, source: str = "") -> pa.Table:
    """Rows of a video with one temporal clip for each value of `cls`."""
    values = np.array([[value, 10 * value] for value in cls], np.float32)
    decoded = Decoded(None, list(range(len(cls))), list(range(len(cls))))
    return folder.rows_of(clip_id, source or SOURCES[clip_id], decoded, values, -values)


def clips(*ids: str) -> pa.Table:
    rows = [{"clip_id": name, "patient_id": f"p{name}", "split": "VAL", "labels": f'{{"n": "{name}"}}'} for name in ids]
    return pa.Table.from_pylist(rows, SCHEMA)


def test_clips_are_averaged_to_their_video(folder: FeatureFolder) -> None:
    folder.write_part([video(folder, "b", 1, 2, 6), video(folder, "a", 5)])
    folder.write_part([video(folder, "c", 0, 1)])
    assert folder.done() == {("a", "1"), ("b", "2"), ("c", "3")}
    assert folder.finish(clips("a", "b", "c"), SOURCES, []) == 6
    features = read_features(folder.uri)
    assert features.clip_ids == ["a", "b", "c"]
    assert features.patient_ids == ["pa", "pb", "pc"]
    assert features.labels == [{"n": "a"}, {"n": "b"}, {"n": "c"}]
    assert features.splits == ["VAL"] * 3
    assert features.cls.tolist() == [[5, 50], [3, 30], [0.5, 5]]
    assert features.patches.tolist() == [[-5, -50], [-3, -30], [-0.5, -5]]
    assert (features.model_sha256, features.preprocessing_sha256) == ("model", PREPARED.sha256)
    table = pq.read_table(f"{folder.uri}/videos.parquet").sort_by("clip_id")
    assert table["num_clips"].to_pylist() == [1, 3, 2]
    assert table["padded_frames"].to_pylist() == [0, 3, 1]


def test_a_video_ends_in_one_of_two_tables(folder: FeatureFolder) -> None:
    folder.write_part([video(folder, "a", 1)])
    with pytest.raises(FeaturesError, match="2 of 3 videos have neither features nor a reason, such as 'b'"):
        folder.finish(clips("a", "b", "c"), SOURCES, [])
    assert not Path(folder.uri, "videos.parquet").exists()
    failures = [Failure("c", "VAL", "broken"), Failure("b", "VAL", "gone")]
    folder.write_failed(failures)
    folder.finish(clips("a", "b", "c"), SOURCES, failures)
    assert pq.read_table(f"{folder.uri}/failed.parquet").to_pylist() == [
        {"clip_id": "b", "split": "VAL", "reason": "gone"},
        {"clip_id": "c", "split": "VAL", "reason": "broken"},
    ]
    assert read_features(folder.uri).clip_ids == ["a"]
    for wrong in ([*failures, failures[0]], [Failure("x", "", "y"), *failures]):
        with pytest.raises(FeaturesError, match="is no clip of the manifest, or failed twice"):
            folder.finish(clips("a", "b", "c"), SOURCES, wrong)


def test_what_a_killed_job_left_counts_once(folder: FeatureFolder) -> None:
    """Another cut of the same videos into parts, as after a restart with other settings; and a video written anew."""
    folder.write_part([video(folder, "a", 1), video(folder, "b", 2)])
    folder.write_part([video(folder, "b", 2), video(folder, "c", 3)])
    folder.write_part([video(folder, "a", 9, source="of an older file")])
    folder.finish(clips("a", "b", "c"), SOURCES, [])
    assert read_features(folder.uri).cls.tolist() == [[1, 10], [2, 20], [3, 30]]
    # a smaller manifest takes what it needs
    folder.finish(clips("b"), SOURCES, [])
    assert read_features(folder.uri).clip_ids == ["b"]


def test_the_same_videos_make_the_same_part(folder: FeatureFolder) -> None:
    folder.write_part([video(folder, "a", 1)])
    folder.write_part([video(folder, "a", 1)])
    folder.write_part([])
    assert len(list(Path(folder.uri, "clips").iterdir())) == 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_features_that_are_not_finite_name_the_clip(folder: FeatureFolder, bad: float) -> None:
    with pytest.raises(FeaturesError, match=r"runs/mine: cls: features that are not finite .*'a'"):
        video(folder, "a", 1, bad)


OTHERS = {
    "model": ({"model_sha256": "other"}, "model_sha256 model there, other now"),
    "precision": ({"precision": "bf16"}, "precision fp32 there, bf16 now"),
    "preparation": (
        {"preprocessing": dataclasses.replace(PREPARED, frame_stride=1, clips_per_video=9)},
        "frame_stride 3 there, 1 now; clips_per_video 3 there, 9 now",
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_folder_of_another_encoder_is_refused(folder: FeatureFolder, name: str) -> None:
    changes, message = OTHERS[name]
    with pytest.raises(FeaturesError, match=f"holds features of encoder 'runs/mine'.*{message}; choose another"):
        FeatureFolder(folder.uri, dataclasses.replace(SETTINGS, **changes)).claim()
    moved = dataclasses.replace(SETTINGS, encoder="elsewhere/mine")  # the same one under another name
    FeatureFolder(folder.uri, moved).claim()


def change(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_folder_that_does_not_say_whose_it_is_is_refused(folder: FeatureFolder) -> None:
    settings = Path(folder.uri, "embedding.json")
    for text, message in (("{", "not JSON"), ("[]", "not the settings"), ("{}", "model_sha256 None there")):
        settings.write_text(text)
        with pytest.raises(FeaturesError, match=message):
            folder.claim()
    settings.unlink()
    folder.claim()  # empty
    folder.write_part([video(folder, "a", 1)])
    settings.unlink()
    with pytest.raises(FeaturesError, match=r"features without embedding\.json"):
        folder.claim()


def test_parts_of_others_and_damaged_ones_are_refused(folder: FeatureFolder) -> None:
    other = FeatureFolder(folder.uri, dataclasses.replace(SETTINGS, model_sha256="other"))
    other.write_part([video(other, "a", 1)])
    (part,) = Path(folder.uri, "clips").iterdir()
    for read in (folder.done, lambda: folder.finish(clips("a"), SOURCES, [])):
        with pytest.raises(FeaturesError, match=f"{part.name}: its model_sha256 is not that of the folder's"):
            read()
    part.write_bytes(part.read_bytes()[:-9])
    with pytest.raises(FeaturesError, match=f"{part.name}: damaged: .* remove it"):
        folder.done()
