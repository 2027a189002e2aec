"""Traces beside a manifest."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from discovr_ray.data import traces
from discovr_ray.data.adapters.listing import Trace
from discovr_ray.data.traces import read_traces, write_traces
from discovr_ray.errors import ManifestError, StorageError


def test_round_trip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    polygon = Trace("b", 4, "lv", [1.5, 2.5, 3.5], [0.0, 1.0, 0.25])
    masks = [Trace("a", n, "la", mask_uri=f"{tmp_path}/set/masks/{n}.nii.gz", mask_value=3) for n in (2, 9)]
    far = Trace("c", 0, "lv", mask_uri="s3://bucket/mask.nii.gz", mask_value=1)
    (tmp_path / "set").mkdir()
    monkeypatch.setattr(traces, "TRACES_AT_ONCE", 3)
    assert write_traces([*masks, polygon, far], f"{tmp_path}/set/traces.parquet") == 4
    shutil.move(tmp_path / "set", tmp_path / "moved")
    found = read_traces(f"{tmp_path}/moved/traces.parquet")
    assert [(trace.clip_id, trace.frame) for trace in found] == [("a", 2), ("a", 9), ("b", 4), ("c", 0)]
    assert found[0] == Trace("a", 2, "la", [], [], f"{tmp_path}/moved/masks/2.nii.gz", 3)
    assert found[2] == polygon
    assert found[3].mask_uri == "s3://bucket/mask.nii.gz"


def test_a_mask_elsewhere_is_refused(tmp_path: Path) -> None:
    write_traces(
        [Trace("a", 1, "la", mask_uri="../../private/mask.nii.gz", mask_value=3)], f"{tmp_path}/traces.parquet"
    )
    with pytest.raises(ManifestError, match=r"mask_uri must be set, without '\.\.'.*private"):
        read_traces(f"{tmp_path}/traces.parquet")


def test_what_is_no_table_of_traces(tmp_path: Path) -> None:
    (tmp_path / "traces.parquet").write_text("no")
    with pytest.raises(ManifestError, match=r"traces\.parquet: not a table of traces"):
        read_traces(str(tmp_path / "traces.parquet"))
    with pytest.raises(StorageError, match="no such file"):
        read_traces(str(tmp_path / "missing.parquet"))
