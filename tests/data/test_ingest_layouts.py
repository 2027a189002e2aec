"""From a public layout to manifest, traces and summary, on a real Ray."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import layouts
import pyarrow.parquet as pq
import pytest
from dicom_files import cine, echo_screen
from listed import list_source

from discovr_ray.data import storage
from discovr_ray.data.adapters.listing import AdapterOptions
from discovr_ray.data.formats.policy import ID_KEY
from discovr_ray.data.manifest import read_manifest
from discovr_ray.data.traces import read_traces
from discovr_ray.errors import ManifestError
from discovr_ray.launch.ingest import ingest
from discovr_ray.launch.splits import SplitRule

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

ROOT = Path(__file__).parents[2]


@pytest.fixture
def source(echo_folder: Path, tmp_path: Path) -> Path:
    """EchoNet-Pediatric with playable videos, but for the last one of PSAX."""
    videos = sorted((echo_folder / "Videos").iterdir())
    names = [f"A4C/Videos/CR{n}-A-00000{n}.avi" for n in (1, 2, 3)] + ["PSAX/Videos/CR1-B-000001.avi"]
    return layouts.pediatric(tmp_path / "set", dict(zip(names, videos, strict=False)))


def test_pediatric_to_manifest_and_traces(source: Path, tmp_path: Path) -> None:
    table = source / "A4C" / "VolumeTracings.csv"
    table.write_text(table.read_text() + "".join(f"CR3-A-000003.avi,{n},{n * n},9999\n" for n in range(3)))
    summary = ingest([str(source)], str(tmp_path / "out"), options=AdapterOptions(thresholds={"ef": 50}))
    rows = read_manifest(summary.manifest_uri).to_pylist()
    assert [(row["clip_id"], row["patient_id"], row["split"], row["view"]) for row in rows] == [
        ("A4C/CR1-A-000001", "CR1", "TRAIN", "A4C"),
        ("A4C/CR2-A-000002", "CR2", "VAL", "A4C"),
        ("A4C/CR3-A-000003", "CR3", "TEST", "A4C"),
        ("PSAX/CR1-B-000001", "CR1", "TRAIN", "PSAX"),
    ]
    assert [json.loads(row["labels"])["low_ef"] for row in rows] == [0, 1, 0, 0]
    rejected = pq.read_table(summary.rejected_uri).to_pylist()
    assert {Path(item["uri"]).name: item["reason"] for item in rejected} == {
        "nobody.avi": "A4C/FileList.csv: the file name is not patient-accession-instance, so its patient is unknown",
        "CR4-A-000009.avi": "the file is empty",
    }
    traces = read_traces(summary.traces_uri)
    assert [(trace.clip_id, trace.frame) for trace in traces] == [
        ("A4C/CR1-A-000001", 3),
        ("A4C/CR1-A-000001", 10),
        ("A4C/CR2-A-000002", 5),
    ]
    assert summary.num_traces == 3
    assert summary.notes[0] == f"{source}: adapter echonet_pediatric"
    assert summary.notes[-2:] == [
        "low_ef: 1 of 4 clips are below 50",
        "traces left out, of a frame that the video does not have: 1",
    ]
    # what an earlier run left there would belong to other clips
    again = ingest([str(source)], str(tmp_path / "out"), options=AdapterOptions(views=("PSAX",)))
    assert (again.num_clips, again.num_traces, again.traces_uri) == (1, 0, "")
    assert not (tmp_path / "out" / "traces.parquet").exists()
    assert again.reasons["view 'A4C' is none of --views PSAX"] == 3


def test_no_patient_in_two_splits(source: Path, tmp_path: Path) -> None:
    options = AdapterOptions(folds=((0,), (6,), (7, 8, 9)))
    with pytest.raises(ManifestError, match="'CR1' in TRAIN and VAL; --split-rule hash"):
        ingest([str(source)], str(tmp_path / "out"), options=options)
    assert not (tmp_path / "out" / "manifest.parquet").exists()
    rows = read_manifest(ingest([str(source)], str(tmp_path / "out"), SplitRule("hash"), options).manifest_uri)
    splits = {(row["patient_id"], row["split"]) for row in rows.to_pylist()}
    assert len(splits) == len({patient for patient, _ in splits}) == 3


@pytest.mark.s3
def test_dicom_of_a_public_set_keeps_its_names(
    tmp_path: Path, s3_server: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(ID_KEY, raising=False)  # names of public sets need no key
    layouts.rvenet(tmp_path / "set")
    for number, name in enumerate(("1_10_1", "1_10_2", "2_7_1")):
        content = cine(echo_screen(12).frames, SOPInstanceUID=f"1.2.{number}", PatientID="ANONYMOUS", FrameTime=20)
        (tmp_path / "set" / f"{name}.dcm").write_bytes(content)
    for path in (tmp_path / "set").iterdir():
        storage.put_file(str(path), f"s3://bucket/rvenet/{path.name}")
    summary = ingest(["s3://bucket/rvenet"], str(tmp_path / "out"))
    rows = read_manifest(summary.manifest_uri).to_pylist()
    assert [(row["clip_id"], row["patient_id"], row["split"], row["view"]) for row in rows] == [
        ("1_10_1", "1_10", "TRAIN", "A4C"),
        ("1_10_2", "1_10", "TRAIN", "A4C"),
        ("2_7_1", "2_7", "VAL", "A4C"),
    ]
    assert [json.loads(row["labels"])["rvef"] for row in rows] == [58.5, 58.5, 51.25]
    assert rows[0]["fps"] == 50
    assert "codebook.csv: RVEF = '?' is no number" in summary.reasons
    layouts.mimic(tmp_path / "mimic")
    for path in (tmp_path / "mimic").rglob("*.*"):
        storage.put_file(str(path), f"s3://bucket/mimic/{path.relative_to(tmp_path / 'mimic')}")
    listing = list_source("s3://bucket/mimic", AdapterOptions(measurements=("lvef",)))
    assert [json.loads(row.labels).get("lvef") for row in listing.rows] == [55, 55, None]


def test_the_job_on_a_table_of_ones_own(source: Path, tmp_path: Path) -> None:
    videos = [f"{source}/A4C/Videos/CR{n}-A-00000{n}.avi" for n in (1, 2, 3)]
    lines = [
        (videos[0], "007", "3", 61),
        (videos[1], "007", "4", 40),
        (videos[2], "8", "7", ""),
        ("x.avi", "9", "8", 1),
    ]
    layouts.write_table(tmp_path / "clips.csv", ("path", "mrn", "fold", "EF"), lines)
    arguments = [str(tmp_path / "clips.csv"), "--output", str(tmp_path / "out"), "--threshold", "ef=50"]
    columns = ["--columns", "uri=path,patient_id=mrn,split=fold,labels.ef=EF", "--folds", "0-5,6/7/8"]
    done = run_job(*arguments, *columns)
    assert done.returncode == 0, done.stderr
    assert "clips     3 (TRAIN 2, VAL 1)" in done.stdout
    assert f"rule      {tmp_path}/clips.csv: adapter table\n" in done.stdout
    assert "rule      folds: TRAIN 0 1 2 3 4 5 6, VAL 7, TEST 8 (where" in done.stdout
    assert "rule      low_ef: 1 of 2 clips are below 50; 1 have no number ef\n" in done.stdout
    assert "no such file" in done.stdout
    for wrong in ("mrn", "uri=path,patient_id="):
        refused = run_job(*arguments, "--columns", wrong)
        assert (refused.returncode, "must be name=value" in refused.stderr) == (2, True)
    refused = run_job(*arguments, "--folds", "0-3/3/4")
    assert (refused.returncode, "fold 3 is in two splits" in refused.stderr) == (2, True)


def test_help_lists_every_adapter() -> None:
    text = run_job("--help").stdout
    for name in ("echonet_dynamic", "echonet_pediatric", "echonet_lvh", "rvenet", "mimic_iv_echo", "table", "folder"):
        assert f"\n  {name} " in text


def run_job(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.run(
        [sys.executable, str(ROOT / "jobs" / "ingest.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
        check=False,
    )
