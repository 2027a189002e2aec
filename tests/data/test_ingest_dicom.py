"""A folder of DICOM files on a real Ray: manifest, frames for training, and not a word that names a patient."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pydicom
import pytest
from dicom_files import KEY, TISSUE_2D, cine, echo_screen
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit, JPEGLosslessSV1, RLELossless

from discovr_ray.config import DataConfig
from discovr_ray.data.clip import load_clip
from discovr_ray.data.formats.dicom.attributes import keyed_hash
from discovr_ray.data.formats.policy import IngestPolicy
from discovr_ray.data.manifest import read_manifest
from discovr_ray.errors import ConfigError
from discovr_ray.launch.ingest import SplitRule, ingest

ROOT = Path(__file__).parents[2]
SCREEN = echo_screen(24)
LEAK = "ZQLEAK"
TEXTS = (
    *("PatientName", "PatientID", "OtherPatientNames", "PatientAddress", "PatientComments", "IssuerOfPatientID"),
    *("ReferringPhysicianName", "PerformingPhysicianName", "OperatorsName", "InstitutionName", "InstitutionAddress"),
    *("StationName", "StudyID", "AccessionNumber", "StudyDescription", "SeriesDescription", "ProtocolName"),
    *("ImageComments", "Manufacturer", "ManufacturerModelName", "DeviceSerialNumber", "SoftwareVersions"),
    *("TransducerData", "MedicalRecordLocator", "AdditionalPatientHistory", "RequestedProcedureDescription"),
)


def clip_of(number: int, patient: str, **attributes: object) -> bytes:
    syntaxes = (ExplicitVRLittleEndian, JPEGBaseline8Bit, JPEGLosslessSV1, RLELossless)
    return cine(SCREEN.frames, syntaxes[number % 4], SOPInstanceUID=f"1.2.3.{number}", PatientID=patient, **attributes)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_from_a_folder_to_frames(tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    (folder / "DOE JANE").mkdir(parents=True)
    for number in range(4):
        (folder / "DOE JANE" / f"{number}.dcm").write_bytes(clip_of(number, f"MRN {number // 2}"))
    (folder / "still.dcm").write_bytes(clip_of(7, "MRN 0", NumberOfFrames=1))
    (folder / "nobody.dcm").write_bytes(clip_of(8, ""))
    (folder / "notes.dcm").write_text("no DICOM")
    policy = IngestPolicy(id_key=KEY)
    summary = ingest([str(folder)], str(tmp_path / "out"), SplitRule("hash", (0.5, 0.25, 0.25)), policy=policy)
    table = read_manifest(summary.manifest_uri)
    assert set(table["clip_id"].to_pylist()) == {keyed_hash(KEY, "clip", f"1.2.3.{number}") for number in range(4)}
    patients = {keyed_hash(KEY, "patient", f"MRN {number}") for number in range(2)}
    assert set(table["patient_id"].to_pylist()) == patients
    for patient in patients:
        assert len({row["split"] for row in table.to_pylist() if row["patient_id"] == patient}) == 1
    clips = [load_clip(row, DataConfig(num_frames=8, frame_stride=2), 0.0) for row in table.to_pylist()]
    for clip in clips:
        assert clip.frames.shape == (8, 112, 112)
        assert clip.frames.mean() > 20
        # the corners, where the names were, are black; all codings give the same picture
        assert not clip.frames[:, :12, :12].any()
        assert np.abs(clip.frames.astype(int) - clips[0].frames).mean() < 1.5
    assert sorted(summary.reasons) == [
        "PatientID missing: neither is guessed from the file's name",
        next(reason for reason in summary.reasons if "not a readable video" in reason),
        "one frame: a still image, not a video",
    ]


def test_no_key_is_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.dcm").write_bytes(b"never read")
    monkeypatch.delenv("DISCOVR_ID_KEY", raising=False)
    with pytest.raises(ConfigError, match=r"DISCOVR_ID_KEY is not set.*secrets.token_hex"):
        ingest([str(tmp_path)], str(tmp_path / "out"))


def leaking(**attributes: object) -> bytes:
    """Unique words in every text attribute."""
    words = {keyword: f"{LEAK}{number}" for number, keyword in enumerate(TEXTS)}
    view = {"CodeValue": "399214001", "CodingSchemeDesignator": "SCT", "CodeMeaning": f"{LEAK} meaning"}
    region = TISSUE_2D | dict(zip(BOX, (0, 0, 319, 239), strict=True)) | {"ReferencedFrameNumber": None}
    more = {"ViewCodeSequence": [view], "SequenceOfUltrasoundRegions": [region], "HeartRate": 61}
    return cine(SCREEN.frames, JPEGBaseline8Bit, **(words | more | attributes))


BOX = ("RegionLocationMinX0", "RegionLocationMinY0", "RegionLocationMaxX1", "RegionLocationMaxY1")


def spoilt_files() -> dict[str, bytes]:
    """Reason to be rejected -> a file that names its patient where the fault is."""
    bad_number = leaking(FrameTime="12345678").replace(b"12345678", f"{LEAK}XX".encode())
    frames = leaking().replace(b"\x28\x00\x08\x00IS\x02\x0024", b"\x28\x00\x08\x00IS\x02\x00ZQ")
    return {
        "FrameTime is no number": bad_number,
        "NumberOfFrames is no number": frames,
        "PhotometricInterpretation is none of": leaking(PhotometricInterpretation=LEAK),
        "Modality is not US": leaking(Modality=LEAK),
        "truncated": leaking()[:-5000],
        "TransferSyntaxUID: a way of coding": leaking().replace(b"1.2.840.10008.1.2.4.50", b"1.2.840.ZQLEAK.9.99.99"),
        "damaged DICOM header|TransferSyntaxUID is missing|PixelData is missing": leaking()[:700],
        "no sector": cine(SCREEN.frames[:4], PatientName=f"{LEAK}^still"),
    }


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """A short path for Ray's own logs: its sockets allow no long ones."""
    folder = Path(tempfile.mkdtemp(prefix="r", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.ray
@pytest.mark.slow
def test_nothing_that_names_a_patient_gets_out(
    tmp_path: Path, ray_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole job in a process of its own: what it prints, what pydicom warns of, Ray's logs, both tables."""
    monkeypatch.setattr(pydicom.config.settings, "writing_validation_mode", pydicom.config.IGNORE)
    monkeypatch.setattr(pydicom.config.settings, "reading_validation_mode", pydicom.config.IGNORE)
    folder = tmp_path / "in" / f"{LEAK}^patient"
    folder.mkdir(parents=True)
    fine = leaking(SpecificCharacterSet="ISO_IR 100").replace(b"ISO_IR 100", f"{LEAK}_SET".encode())
    (folder / f"{LEAK} 1.dcm").write_bytes(fine)
    (folder / f"{LEAK} twin.dcm").write_bytes(fine)
    spoilt = spoilt_files()
    for number, content in enumerate(spoilt.values()):
        assert LEAK.encode() in content
        (folder / f"{LEAK} bad {number}.dcm").write_bytes(content)
    kept = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "PYTHONWARNINGS")}
    done = subprocess.run(
        [sys.executable, str(ROOT / "jobs" / "ingest.py"), str(tmp_path / "in"), "--output", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        timeout=300,
        env=kept | {"DISCOVR_ID_KEY": KEY, "RAY_TMPDIR": str(ray_folder)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert LEAK not in done.stdout + done.stderr
    assert KEY not in done.stdout + done.stderr
    logs = [path for path in ray_folder.rglob("*") if path.is_file()]
    assert any(path.name.startswith("worker") for path in logs)
    for path in logs:
        text = path.read_bytes()
        assert LEAK.encode() not in text, path
        assert KEY.encode() not in text, path

    (row,) = read_manifest(str(tmp_path / "out" / "manifest.parquet")).to_pylist()
    assert row["view"] == "A4C"
    assert json.loads(row["labels"])["heart_rate_bpm"] == 61
    assert LEAK in row.pop("uri")  # the file must be found again
    assert LEAK not in json.dumps(row)
    rows = pq.read_table(io.BytesIO((tmp_path / "out" / "rejected.parquet").read_bytes())).to_pylist()
    reasons = sorted(row["reason"] for row in rows)
    assert LEAK not in str(reasons)
    assert len(reasons) == len(spoilt) + 1
    for expected in (*spoilt, "same id and content"):
        assert any(part in reason for reason in reasons for part in expected.split("|")), (expected, reasons)
