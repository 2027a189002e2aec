"""From NIfTI layouts to manifest, traces and clips, on a real Ray."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from nifti_layouts import NUM_FRAMES, mask, write_camus, write_cardiacnet, write_info

from discovr_ray.config import DataConfig
from discovr_ray.data import storage
from discovr_ray.data.adapters.listing import AdapterOptions
from discovr_ray.data.clip import load_clip
from discovr_ray.data.formats.nifti import read_mask
from discovr_ray.data.manifest import read_manifest
from discovr_ray.data.shards import ShardSettings, placement
from discovr_ray.data.traces import read_traces
from discovr_ray.errors import ManifestError
from discovr_ray.launch.ingest import ingest

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


def test_camus_to_manifest_traces_and_clips(tmp_path: Path) -> None:
    source = write_camus(tmp_path / "camus")
    write_info(source, "patient0003", "2CH", FrameRate=None)
    summary = ingest([str(source)], str(tmp_path / "out"), options=AdapterOptions(thresholds={"ef": 55}))
    rows = read_manifest(summary.manifest_uri).to_pylist()
    assert [(row["clip_id"], row["patient_id"], row["split"], row["view"]) for row in rows] == [
        ("patient0001_2CH", "patient0001", "TRAIN", "A2C"),
        ("patient0001_4CH", "patient0001", "TRAIN", "A4C"),
        ("patient0002_2CH", "patient0002", "VAL", "A2C"),
        ("patient0002_4CH", "patient0002", "VAL", "A4C"),
        ("patient0003_4CH", "patient0003", "TEST", "A4C"),
    ]
    assert {(row["format"], row["num_frames"], row["fps"]) for row in rows} == {("nifti", NUM_FRAMES, 49.5)}
    assert rows[0]["cm_per_pixel"] == pytest.approx(0.03)
    assert json.loads(rows[0]["labels"])["low_ef"] == 1
    rejected = pq.read_table(summary.rejected_uri).to_pylist()
    assert {Path(item["uri"]).name: item["reason"] for item in rejected} == {
        "patient0003_2CH_half_sequence.nii.gz": "neither the file nor its data set says how many frames a second has"
    }
    traces = read_traces(summary.traces_uri)
    assert len(traces) == 5 * 2 * 3
    (ventricle,) = [t for t in traces if (t.clip_id, t.frame, t.structure) == ("patient0003_4CH", 11, "lv")]
    values = read_mask(storage.read_bytes(ventricle.mask_uri), rows[4]["height"], rows[4]["width"])
    assert np.array_equal(values == ventricle.mask_value, mask(35) == 1)
    clip = load_clip(rows[4], DataConfig(num_frames=4, frame_stride=2, image_size=32), 0.0)
    assert clip.frames.shape == (4, 32, 32)


def test_masks_of_camus_fit_the_converted_frames(tmp_path: Path) -> None:
    source = write_camus(tmp_path / "camus")
    plain = ingest([str(source)], str(tmp_path / "plain"))
    done = ingest([str(source)], str(tmp_path / "out"), shards=ShardSettings(size=40, codec="lossless"))
    assert done.num_traces == plain.num_traces > 0
    (tmp_path / "out").rename(tmp_path / "moved")
    rows = {row["clip_id"]: row for row in read_manifest(f"{tmp_path}/plain/manifest.parquet").to_pylist()}
    before, after = (read_traces(f"{tmp_path}/{name}/traces.parquet") for name in ("plain", "moved"))
    for old, new in zip(before, after, strict=True):
        assert new[:3] == old[:3]
        assert new.mask_value == old.mask_value
        assert new.mask_uri.startswith(f"{tmp_path}/moved/masks/")
        row = rows[old.clip_id]
        mask = read_mask(storage.read_bytes(old.mask_uri), row["height"], row["width"])
        expected = placement(row, ShardSettings(size=40)).mask(mask, 40)
        assert np.array_equal(read_mask(storage.read_bytes(new.mask_uri), 40, 40), expected)


@pytest.mark.s3
def test_camus_from_s3(tmp_path: Path, s3_server: object) -> None:
    source = write_camus(tmp_path / "camus")
    for path in source.rglob("*.*"):
        storage.put_file(str(path), f"s3://bucket/camus/{path.relative_to(source)}")
    shutil.rmtree(source)
    summary = ingest(["s3://bucket/camus"], str(tmp_path / "out"))
    assert summary.splits == {"TRAIN": 2, "VAL": 2, "TEST": 2}
    assert summary.num_traces == 36
    assert summary.reasons == {}


def test_cardiacnet_needs_a_frame_rate(tmp_path: Path) -> None:
    source = write_cardiacnet(tmp_path / "cardiacnet")
    with pytest.raises(ManifestError, match="how many frames a second"):
        ingest([str(source)], str(tmp_path / "out"))
    summary = ingest([str(source)], str(tmp_path / "out"), options=AdapterOptions(fps=30))
    rows = read_manifest(summary.manifest_uri).to_pylist()
    assert {row["fps"] for row in rows} == {30}
    assert len(rows) == 8
    assert {row["clip_id"].split("/")[0] for row in rows} == {"PAH", "Non-PAH", "ASD", "Non-ASD"}


def test_a_folder_takes_nifti_and_refuses_masks(tmp_path: Path) -> None:
    source = write_camus(tmp_path / "set" / "camus").parent
    shutil.move(source / "camus" / "database_nifti", source / "images")
    summary = ingest([str(source)], str(tmp_path / "out"), options=AdapterOptions(adapter="folder", fps=50))
    rows = read_manifest(summary.manifest_uri).to_pylist()
    assert [row["clip_id"].rpartition("/")[2] for row in rows] == [
        f"patient000{n}_{view}_half_sequence" for n in (1, 2, 3) for view in ("2CH", "4CH")
    ]
    assert summary.reasons == {
        "one frame: a still image, not a video": 24,
        "values 0 to 3: a mask, or brightness on another scale than 0 to 255": 6,
    }
