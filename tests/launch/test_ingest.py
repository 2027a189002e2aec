"""Ingest on a real Ray: every file of the sources ends in one of the two tables."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from discovr_ray.config import DataConfig
from discovr_ray.data import storage
from discovr_ray.data.adapters.listing import AdapterOptions
from discovr_ray.data.clip import load_clip
from discovr_ray.data.manifest import read_manifest
from discovr_ray.errors import ManifestError, StorageError, StreamError
from discovr_ray.launch import ingest as ingest_module
from discovr_ray.launch import inspection
from discovr_ray.launch.ingest import ingest
from discovr_ray.launch.splits import SplitRule, hashed_splits

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

ROOT = Path(__file__).parents[2]


def rejected(output: object) -> dict[str, str]:
    rows = pq.read_table(io.BytesIO(storage.read_bytes(f"{output}/rejected.parquet"))).to_pylist()
    return {Path(row["uri"]).name: row["reason"] for row in rows}


@pytest.fixture
def copy(echo_folder: Path, tmp_path: Path) -> Path:
    """Six clips of the synthetic set, to be spoilt."""
    folder = tmp_path / "copy"
    (folder / "Videos").mkdir(parents=True)
    lines = (echo_folder / "FileList.csv").read_text().splitlines()[:7]
    (folder / "FileList.csv").write_text("\n".join(lines))
    for line in lines[1:]:
        shutil.copy(echo_folder / "Videos" / f"{line.split(',')[0]}.avi", folder / "Videos")
    return folder


def answers_of(uris: list[str], inspect: inspection.Inspect = inspection.inspect_file) -> dict[str, inspection.Facts]:
    files = [inspection.FileToLook(number, uri) for number, uri in enumerate(uris)]
    answers = dict(inspection.inspect_files(files, len(files), inspect))
    return {uri: answers[number] for number, uri in enumerate(uris)}


def videos_of(folder: Path) -> list[Path]:
    return sorted((folder / "Videos").iterdir())


def test_echonet_dynamic_folder(echo_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    summary = ingest([str(echo_folder)], str(tmp_path / "out"))
    table = read_manifest(summary.manifest_uri)
    assert summary.num_clips == table.num_rows == 24
    assert summary.reasons == {}
    assert rejected(tmp_path / "out") == {}
    assert summary.splits == dict(Counter(table["split"].to_pylist())) == {"TRAIN": 18, "VAL": 3, "TEST": 3}
    for row in table.slice(0, 3).to_pylist():
        content = Path(row["uri"]).read_bytes()
        assert row["sha256"] == hashlib.sha256(content).hexdigest()
        assert row["num_bytes"] == len(content)
        assert (row["format"], row["height"], row["width"]) == ("avi-mjpeg", 112, 112)
        assert "abnormal" in json.loads(row["labels"])
        assert load_clip(row, DataConfig(num_frames=4, frame_stride=1), 0.5).frames.shape == (4, 112, 112)
    assert "looked at 24 of 24 files" in caplog.text


def test_every_bad_file_is_rejected_with_its_reason(copy: Path, tmp_path: Path) -> None:
    empty, cut, flipped, text, missing, good = videos_of(copy)
    content = {path: path.read_bytes() for path in videos_of(copy)}
    empty.write_bytes(b"")
    cut.write_bytes(content[cut][: len(content[cut]) // 2])
    damaged = bytearray(content[flipped])
    middle = len(damaged) // 2
    damaged[middle : middle + 3000 : 3] = bytes(len(range(middle, middle + 3000, 3)))
    flipped.write_bytes(damaged)
    text.write_text("not a video")
    missing.unlink()
    (copy / "Videos" / "stray.avi").write_bytes(content[good])
    summary = ingest([str(copy)], str(tmp_path / "out"))
    assert read_manifest(summary.manifest_uri)["clip_id"].to_pylist() == [good.stem]
    reasons = rejected(tmp_path / "out")
    assert set(reasons) == {empty.name, cut.name, flipped.name, text.name, missing.name, "stray.avi"}
    assert reasons[empty.name] == "the file is empty"
    assert "truncated" in reasons[cut.name]
    assert "frame" in reasons[flipped.name]
    assert "not a readable video" in reasons[text.name]
    assert "missing" in reasons[missing.name]
    assert "not listed" in reasons["stray.avi"]


def test_nothing_usable(tmp_path: Path) -> None:
    (tmp_path / "a.avi").write_text("no")
    with pytest.raises(ManifestError, match="none of 1 files is usable"):
        ingest([str(tmp_path)], str(tmp_path / "out"))
    assert "a.avi" in rejected(tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.parquet").exists()


def test_unwritable_output_is_found_first(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest_module, "inspect_files", lambda *args, **more: pytest.fail("worked first"))
    with pytest.raises(StorageError, match="cannot write"):
        ingest([str(copy)], str(copy / "FileList.csv" / "out"))


def test_folders_split_by_patient(copy: Path, tmp_path: Path) -> None:
    for number, path in enumerate(videos_of(copy)):
        target = tmp_path / "plain" / f"p{number % 3}" / f"v{number}.avi"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    rule = SplitRule("given", (0.4, 0.3, 0.3))
    summary = ingest(
        [str(tmp_path / "plain")], str(tmp_path / "plain"), rule, AdapterOptions(patient_pattern=r"^(p\d)")
    )
    table = read_manifest(summary.manifest_uri).to_pylist()
    assert [row["patient_id"] for row in table] == ["p0", "p0", "p1", "p1", "p2", "p2"]
    for patient in ("p0", "p1", "p2"):
        assert len({row["split"] for row in table if row["patient_id"] == patient}) == 1
    # files below the manifest are named relative to it, so the folder can be moved
    moved = tmp_path / "moved"
    shutil.move(tmp_path / "plain", moved)
    assert all(Path(uri).exists() for uri in read_manifest(f"{moved}/manifest.parquet")["uri"].to_pylist())


def test_shares_of_a_split_by_hash() -> None:
    patients = [f"patient {number}" for number in range(20_000)]
    splits = hashed_splits(patients, (0.8, 0.1, 0.1))
    counts = Counter(splits)
    assert abs(counts["TRAIN"] / 20_000 - 0.8) < 0.015  # five standard deviations
    assert abs(counts["VAL"] / 20_000 - 0.1) < 0.011
    assert set(counts) == {"TRAIN", "VAL", "TEST"}
    assert hashed_splits(patients[:100], (0.8, 0.1, 0.1)) == splits[:100]
    assert set(hashed_splits(patients, (1.0, 0.0, 0.0))) == {"TRAIN"}


def test_ids_are_unique_whatever_the_order_of_the_sources(copy: Path, tmp_path: Path) -> None:
    one, two, *_ = videos_of(copy)
    for folder, video in {"x": one, "y": two, "z": one}.items():
        (tmp_path / folder).mkdir()
        shutil.copy(video, tmp_path / folder / "same.avi")
    sources = [str(tmp_path / name) for name in "xyz"]
    first = read_manifest(ingest(sources, str(tmp_path / "out1")).manifest_uri)
    second = read_manifest(ingest(sources[::-1], str(tmp_path / "out2")).manifest_uri)
    digests = [hashlib.sha256(path.read_bytes()).hexdigest()[:8] for path in (one, two)]
    assert first["clip_id"].to_pylist() == second["clip_id"].to_pylist() == sorted(f"same~{item}" for item in digests)
    assert list(rejected(tmp_path / "out1").values()) == ["same id and content as another file of the sources"]
    # a file that two sources name is one file
    assert ingest([sources[0], f"{sources[0]}/*.avi"], str(tmp_path / "out3")).num_clips == 1


def test_rules_for_splits(copy: Path, tmp_path: Path) -> None:
    text = (copy / "FileList.csv").read_text().replace("TRAIN", "fold 3")
    (copy / "FileList.csv").write_text(text)
    with pytest.raises(ManifestError, match="split 'FOLD 3' is none of TRAIN"):
        ingest([str(copy)], str(tmp_path / "out"))
    hashed = ingest([str(copy)], str(tmp_path / "out"), SplitRule("hash", (0.0, 1.0, 0.0)))
    assert hashed.splits == {"VAL": 6}
    assert ingest([str(copy)], str(tmp_path / "out"), SplitRule("none")).splits == {"": 6}
    with pytest.raises(ManifestError, match="add up to 1"):
        SplitRule("hash", (0.8, 0.1, 0.2))
    for pattern, message in {"p(": "no valid regular", "p": "needs a group"}.items():
        with pytest.raises(ManifestError, match=message):
            ingest([str(copy)], str(tmp_path / "out"), options=AdapterOptions(patient_pattern=pattern))


@pytest.mark.chaos
def test_a_file_that_kills_its_process_costs_only_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def dies_on_one_file(uri: str, fps: float) -> inspection.Facts:  # local, so that it travels to the workers by value
        if uri == "killer":
            os.kill(os.getpid(), signal.SIGKILL)
        if uri == "odd":
            raise MemoryError("too much")
        return inspection.Facts("avi", 2, 1.0, 1, 1, 1, "0" * 64)

    monkeypatch.setattr(inspection, "FILES_PER_BLOCK", 4)
    uris = ["a", "b", "killer", "d", "e", "odd", "g"]
    reasons = {uri: facts.reason for uri, facts in answers_of(uris, dies_on_one_file).items()}
    assert "SIGKILL" in reasons.pop("killer")
    assert reasons.pop("odd") == "MemoryError: too much"
    assert set(reasons.values()) == {""}


def test_storage_that_does_not_answer_rejects_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISCOVR_STORAGE", json.dumps({"outage_patience_s": 0}))  # the tasks have it from here
    with pytest.raises(
        StreamError, match=r"of 2 files the storage does not answer: a file in .*: cannot read: Input/output"
    ):
        answers_of(["/proc/self/mem", "/missing"])


@pytest.mark.chaos
def test_workers_that_cannot_work_are_no_files_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "FILES_PER_BLOCK", 1)
    # this module cannot be imported on the workers, as when the package is not installed there
    with pytest.raises(ManifestError, match=r"(?s)could look at any of 6 files.*No module named 'test_ingest'"):
        answers_of(list("abcdef"), known_here_only)


def known_here_only(uri: str, fps: float) -> inspection.Facts:
    return inspection.Facts()


@pytest.mark.s3
def test_from_s3_to_s3(copy: Path, s3_server: object) -> None:
    for path in (copy / "FileList.csv", *videos_of(copy)):
        storage.put_file(str(path), f"s3://bucket/echo/{path.relative_to(copy)}")
    storage.write_bytes(f"s3://bucket/echo/Videos/{videos_of(copy)[0].name}", b"")
    summary = ingest(["s3://bucket/echo"], "s3://bucket/manifest")
    table = read_manifest("s3://bucket/manifest/manifest.parquet")
    assert summary.num_clips == table.num_rows == 5
    assert rejected("s3://bucket/manifest") == {videos_of(copy)[0].name: "the file is empty"}
    row = table.slice(0, 1).to_pylist()[0]
    assert row["uri"].startswith("s3://bucket/echo/Videos/")
    assert load_clip(row, DataConfig(num_frames=4, frame_stride=1), 0.0).frames.shape == (4, 112, 112)
    assert ingest(["s3://bucket/echo/Videos/*"], "s3://bucket/other").num_clips == 5


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


def test_the_job(copy: Path, tmp_path: Path) -> None:
    videos_of(copy)[0].write_bytes(b"")
    done = run_job(str(copy), "--output", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert "clips     5" in done.stdout
    assert "1  the file is empty" in done.stdout
    assert "looked at 6 of 6 files" in done.stderr
    assert read_manifest(str(tmp_path / "out" / "manifest.parquet")).num_rows == 5


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["{folder}/missing"], 2, "refused: {folder}/missing: no such file"),
        (["{folder}/*.nothing"], 2, "matches no file"),
        (["{folder}", "--split-fractions", "1,2"], 2, "invalid _fractions value"),
        (["{folder}", "--split-fractions", "1,1,1"], 2, "refused: split fractions"),
        (["{folder}", "--patient-pattern", "p("], 2, "refused: patient pattern"),
        (["{folder}/clips.csv", "--columns", "patient=uri"], 2, "refused: --columns patient: no field"),
        (["{folder}/clips.csv"], 2, "refused: 1 patient(s) would be in more than one split"),
        (["{folder}/clips.csv", "--split-rule", "hash", "--output", "{folder}/taken"], 1, "failed: {folder}/taken"),
        (["--help"], 0, ""),
    ],
)
def test_exit_codes_of_the_job(
    echo_folder: Path, tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    clips = sorted((echo_folder / "Videos").iterdir())[:2]
    (tmp_path / "clips.csv").write_text(f"uri,patient_id,split\n{clips[0]},1,TRAIN\n{clips[1]},1,VAL\n")
    (tmp_path / "taken" / "manifest.parquet" / "a folder").mkdir(parents=True)  # so that only the last write fails
    done = run_job("--output", str(tmp_path / "out"), *(item.format(folder=tmp_path) for item in arguments))
    assert done.returncode == code
    assert message.format(folder=tmp_path) in done.stderr
    assert "Traceback" not in done.stderr
