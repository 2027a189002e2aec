"""Storage that misbehaves: a proxy spoils answers of a real S3 server, and what is read or written stays the same."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.fs
import pytest
from clip_table import manifest_of
from faulty_proxy import READ_FAULTS, WRITE_FAULTS, FaultyProxy, Schedule

from discovr_ray.config import Config, DataConfig, derive_plan, parse_config
from discovr_ray.data import outage, storage
from discovr_ray.data.clip import load_clip
from discovr_ray.data.manifest import read_manifest
from discovr_ray.data.microbatch import decode_micro_batch
from discovr_ray.data.plan import plan_stream
from discovr_ray.data.storage import remote, s3
from discovr_ray.data.stream import open_stream
from discovr_ray.errors import ClipError, MissingFileError, StorageError
from discovr_ray.launch.ingest import ingest
from discovr_ray.train import checkpoint

pytestmark = pytest.mark.s3

# more than the 5 % that a run must bear, so that few requests meet several faults
SHARE = 0.1
CLIPS, EPOCHS = 24, 2


class Bucket(NamedTuple):
    """A bucket behind the proxy."""

    uri: str
    folder: Path  # where the server keeps it
    proxy: FaultyProxy


@pytest.fixture
def bucket(s3_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    port = int(s3_server.environment["AWS_ENDPOINT_URL"].rsplit(":", 1)[-1])
    monkeypatch.setenv("DISCOVR_STORAGE", "")
    with FaultyProxy(port) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
        yield Bucket(f"{s3_server.uri}/{tmp_path.name}", s3_server.folder / tmp_path.name, proxy)


@pytest.fixture(scope="module")
def uploaded(s3_server: Any, echo_folder: Path) -> str:
    """Folder of the synthetic clips in the bucket."""
    folder = f"{s3_server.uri}/faults"
    for path in echo_folder.rglob("*"):
        if path.is_file():
            storage.put_file(str(path), storage.join(folder, *path.relative_to(echo_folder).parts))
    return folder


class Echo(NamedTuple):
    """The synthetic clips behind the proxy."""

    uri: str
    clips: pa.Table  # their manifest rows
    on_disk: pa.Table  # the same of the files that were uploaded
    proxy: FaultyProxy


@pytest.fixture
def echo(uploaded: str, bucket: Bucket, echo_folder: Path) -> Echo:
    on_disk = manifest_of(sorted((echo_folder / "Videos").glob("*.avi")))
    uris = [f"{uploaded}/Videos/{name}.avi" for name in on_disk["clip_id"].to_pylist()]
    clips = on_disk.set_column(on_disk.column_names.index("uri"), "uri", [uris])
    return Echo(uploaded, clips, on_disk, bucket.proxy)


def config_of(**data: Any) -> Config:
    return parse_config(
        {
            "data": {"num_frames": 8, "max_bad_fraction": 0.5, **data},
            "engine": {"global_batch": 8, "micro_batch": 8},
            "schedule": {"epochs": EPOCHS, "warmup_epochs": 1},
            "run": {"cpus_per_worker": 0.5},
        }
    )


def decode_all(clips: pa.Table) -> list[tuple[list[str], list[str], str]]:
    """(clip ids, reasons, hash of the frames) of every micro-batch of the run, as the stream's tasks make them."""
    config = config_of()
    plan = plan_stream(config, derive_plan(config, clips.num_rows), 1, 0)
    blocks = [decode_micro_batch(clips, number, plan, config.data) for number in range(EPOCHS * CLIPS // 8)]
    return [
        (block["clip_id"].tolist(), block["reason"].tolist(), hashlib.sha256(block["frames"].tobytes()).hexdigest())
        for block in blocks
    ]


# --- reads


def test_one_request_reads_a_file_or_a_part_of_it(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISCOVR_STORAGE", json.dumps({"read_timeout_s": 60}))  # a busy machine is no stall
    storage.write_bytes(f"{bucket.uri}/x", b"0123456789")
    bucket.proxy.use(Schedule())
    assert storage.read_bytes(f"{bucket.uri}/x") == b"0123456789"
    assert storage.read_once(f"{bucket.uri}/x") == b"0123456789"
    assert storage.read_range(f"{bucket.uri}/x", 2, 3) == b"234"
    path = bucket.uri.removeprefix("s3:/")
    assert bucket.proxy.requests == [("GET", f"{path}/x")] * 3


@pytest.fixture(scope="module")
def clean(echo_folder: Path) -> list[tuple[list[str], list[str], str]]:
    return decode_all(manifest_of(sorted((echo_folder / "Videos").glob("*.avi"))))


@pytest.mark.parametrize("fault", [*READ_FAULTS, "all of them"])
def test_decoded_clips_are_the_same_bit_for_bit(echo: Echo, fault: str, clean: object) -> None:
    echo.proxy.use(Schedule(READ_FAULTS if fault == "all of them" else [fault], SHARE, seed=14))
    assert decode_all(echo.clips) == clean
    assert len(echo.proxy.spoilt) >= 6


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("truncated", "reads and no two alike, the last one: the file has"),
        ("flipped", "reads and no two alike, the last one: the file has changed since ingest"),
        ("slow_down", "Reduce your request rate.*while other files can be read"),
        ("reset", "while other files can be read"),
        ("cut", "while other files can be read"),
        ("stall_in_body", "no byte came for .* while other files can be read"),
    ],
)
def test_a_clip_that_never_comes_whole_is_quarantined_with_the_reason(
    echo: Echo, fault: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outage, "FIRST_PAUSE_S", 0.05)
    monkeypatch.setenv("DISCOVR_STORAGE", json.dumps({"read_timeout_s": 0.1, "attempts": 4}))
    rows = echo.clips.to_pylist()
    data = DataConfig(num_frames=8)
    spoilt = f"/{rows[3]['clip_id']}.avi"
    echo.proxy.use(Schedule([fault], share=1.0, only=lambda target: target.endswith(spoilt)))
    assert load_clip(rows[2], data, 0.0).frames.any()
    with pytest.raises(ClipError, match=f"(?s){spoilt}.*{reason}"):
        load_clip(rows[3], data, 0.0)
    assert load_clip(rows[4], data, 0.0).frames.any()


@pytest.mark.parametrize("fault", ["truncated", "flipped"])
def test_what_has_no_hash_is_checked_against_the_etag(bucket: Bucket, fault: str) -> None:
    content = os.urandom(50_000)
    storage.write_bytes(f"{bucket.uri}/table.csv", content)
    bucket.proxy.use(Schedule([fault], share=0.3, seed=2))
    for _ in range(10):
        assert storage.read_bytes(f"{bucket.uri}/table.csv") == content
    assert len(bucket.proxy.spoilt) >= 3
    bucket.proxy.use(Schedule([fault], share=1.0))
    with pytest.raises(MissingFileError, match=r"table\.csv: cannot read: 5 reads and no two alike"):
        storage.read_bytes(f"{bucket.uri}/table.csv")


@pytest.mark.parametrize("fault", ["truncated", "flipped"])
def test_an_etag_that_is_no_hash_means_reading_until_two_agree(
    bucket: Bucket, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of objects that were sent in parts, or that are encrypted by key; https guards them itself."""
    monkeypatch.setattr(s3, "_matches_etag", lambda response, data: None)
    content = os.urandom(50_000)
    storage.write_bytes(f"{bucket.uri}/x", content)
    bucket.proxy.use(Schedule())
    assert storage.read_bytes(f"{bucket.uri}/x") == content
    assert len(bucket.proxy.requests) == 2
    bucket.proxy.use(Schedule([fault], share=0.3, seed=4))
    for _ in range(5):
        assert storage.read_bytes(f"{bucket.uri}/x") == content
    assert bucket.proxy.spoilt
    monkeypatch.setattr(s3, "endpoint", lambda: "https://storage.example")
    bucket.proxy.use(Schedule())
    assert storage.read_bytes(f"{bucket.uri}/x") == content
    assert len(bucket.proxy.requests) == 1


def test_which_etags_are_hashes() -> None:
    data, md5 = b"123", "202cb962ac59075b964b07152d234b70"
    assert s3._matches_etag({"ETag": f'"{md5}"'}, data) is True
    assert s3._matches_etag({"ETag": f'"{md5}"', "ServerSideEncryption": "AES256"}, data) is True
    assert s3._matches_etag({"ETag": f'"{md5}"'}, data + b"4") is False
    assert s3._matches_etag({"ETag": f'"{md5}-2"'}, data) is None
    assert s3._matches_etag({"ETag": f'"{md5}"', "ServerSideEncryption": "aws:kms"}, data) is None
    assert s3._matches_etag({"ETag": f'"{md5}"', "SSECustomerAlgorithm": "AES256"}, data) is None
    assert s3._matches_etag({}, data) is None


@pytest.mark.parametrize("fault", ["truncated", "flipped", "cut", "slow_down", "stall"])
def test_listings_are_whole(bucket: Bucket, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{bucket.uri}/list/{number:03d}.avi" for number in range(20)]
    for name in names:
        storage.write_bytes(name, b"1")
    # 0.3 s for a listing that stalls; else a busy machine's pauses would be faults beside those of the schedule
    monkeypatch.setenv("DISCOVR_STORAGE", json.dumps({"read_timeout_s": 0.02 if fault == "stall" else 4.0}))
    bucket.proxy.use(Schedule([fault], share=0.2, seed=1))
    for page_keys in (1000, 7):
        monkeypatch.setattr(s3, "PAGE_KEYS", page_keys)
        assert storage.list_files(f"{bucket.uri}/list") == names
        assert storage.glob(f"{bucket.uri}/list/*.avi") == names
        assert storage.list_folders(bucket.uri) == [f"{bucket.uri}/list"]
    assert bucket.proxy.spoilt


def test_a_listing_of_a_folder_that_grows(bucket: Bucket, caplog: pytest.LogCaptureFixture) -> None:
    folder = f"{bucket.uri}/grows"
    names = iter(range(10))

    def ask() -> set[str]:  # before each answer somebody writes one more file
        storage.write_bytes(f"{folder}/{next(names)}.avi", b"1")
        return set(remote.filesystem(folder).find(folder))

    assert sorted(path[-5:] for path in s3.steady(ask)) == ["0.avi", "1.avi", "2.avi", "3.avi"]  # of five answers
    assert caplog.messages == ["1 files left out of a listing that grew while it was asked for"]


def test_a_listing_that_never_agrees_says_what_may_be_the_cause(bucket: Bucket) -> None:
    storage.write_bytes(f"{bucket.uri}/changes/a", b"1")
    sizes = iter(range(2, 20))

    def change(target: str) -> bool:
        (bucket.folder / "changes" / "a").write_bytes(bytes(next(sizes)))
        return False

    bucket.proxy.use(Schedule(["cut"], only=change))
    with pytest.raises(StorageError, match="no two answers alike: files change there, or something on the way"):
        storage.list_files(f"{bucket.uri}/changes")


# --- checkpoints


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A checkpoint's files: one goes in parts."""
    monkeypatch.setattr(s3, "PART_BYTES", 5 * 2**20)  # the least that S3 takes
    s3._client.cache_clear()
    folder = tmp_path / "step_00000001"
    folder.mkdir()
    (folder / "shard_0.bin").write_bytes(os.urandom(2 * s3.PART_BYTES + 12_345))
    (folder / "shard_1.bin").write_bytes(os.urandom(1_000_000))
    (folder / "encoder.json").write_bytes(b"{}")
    yield folder
    s3._client.cache_clear()


STATE = checkpoint.TrainState(step=1, samples_seen=8, num_clips=64, world_size=1, zero_stage=1, config={})


@pytest.mark.parametrize("with_arrow", [False, True], ids=["s3fs", "as Ray Train uploads"])
def test_a_checkpoint_is_saved_and_restored(bucket: Bucket, files: Path, tmp_path: Path, with_arrow: bool) -> None:
    run = f"{bucket.uri}/run"
    target = f"{run}/{files.name}"
    bucket.proxy.use(Schedule(WRITE_FAULTS, share=0.4, seed=6))
    if with_arrow:
        filesystem, path = storage.arrow_filesystem(target)
        pa.fs.copy_files(str(files), path, destination_filesystem=filesystem, use_threads=False)
    else:
        for path in sorted(files.iterdir()):
            storage.put_file(str(path), f"{target}/{path.name}")
    checkpoint.seal(target, checkpoint.describe(files), STATE)
    spoilt = Counter(fault for fault, _ in bucket.proxy.spoilt)
    assert spoilt.keys() == set(WRITE_FAULTS), bucket.proxy.spoilt
    assert any("partNumber=" in path for method, path in bucket.proxy.requests if method == "PUT")
    for path in files.iterdir():
        assert (bucket.folder / "run" / files.name / path.name).read_bytes() == path.read_bytes()

    bucket.proxy.use(Schedule(READ_FAULTS, share=0.3, seed=6))
    restored = checkpoint.restore(run, tmp_path / "local", lambda name: True)
    assert restored is not None
    assert restored.state == STATE
    assert checkpoint.describe(restored.directory) == checkpoint.describe(files)
    assert len(bucket.proxy.spoilt) >= 3


def test_completeness_is_one_listing_and_one_file(bucket: Bucket, files: Path) -> None:
    target = f"{bucket.uri}/run/{files.name}"
    for path in files.iterdir():
        storage.put_file(str(path), f"{target}/{path.name}")
    checkpoint.seal(target, checkpoint.describe(files), STATE)
    bucket.proxy.use(Schedule())
    assert checkpoint.read(target).files == tuple(checkpoint.describe(files))
    kinds = ["list" if "list-type" in path else "file" for _, path in bucket.proxy.requests]
    assert kinds == ["list", "list", "file"]  # a listing is asked for twice over plain http


def test_a_write_that_cannot_succeed_says_so(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISCOVR_STORAGE", json.dumps({"attempts": 2}))
    bucket.proxy.use(Schedule(["slow_down"], share=1.0))
    with pytest.raises(StorageError, match=r"/x: cannot write: .*[Rr]educe your request rate"):
        storage.write_bytes(f"{bucket.uri}/x", b"1")


# --- on Ray


@pytest.mark.ray
def test_the_stream_is_the_same_bit_for_bit(ray_cluster: None, echo: Echo) -> None:
    runs = []
    for clips in (echo.on_disk, echo.clips):
        echo.proxy.use(Schedule(READ_FAULTS, SHARE, seed=14))
        config = config_of()
        stream = open_stream(clips, config, derive_plan(config, clips.num_rows), world_size=1, start_step=0)
        runs.append(
            [
                (batch.clip_ids, batch.failures, hashlib.sha256(batch.frames.numpy().tobytes()).hexdigest())
                for batches in stream.steps(0)
                for batch in batches
            ]
        )
    assert runs[0] == runs[1]
    assert len(echo.proxy.spoilt) >= 6
    assert not any(failures for _, failures, _ in runs[0])


@pytest.mark.ray
def test_ingest_makes_the_same_manifest(bucket: Bucket, echo: Echo, echo_manifest: str) -> None:
    echo.proxy.use(Schedule([name for name in READ_FAULTS if "stall" not in name], 0.2, seed=7))
    summary = ingest([echo.uri], f"{bucket.uri}/out")
    assert len(echo.proxy.spoilt) >= 5
    assert summary.reasons == {}
    expected, found = (read_manifest(uri).drop_columns("uri") for uri in (echo_manifest, summary.manifest_uri))
    assert found == expected


@pytest.mark.ray
def test_settings_reach_the_tasks(ray_cluster: None, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    from discovr_ray.launch.inspection import Facts, FileToLook, inspect_files

    def ask(uri: str, fps: float) -> Facts:  # local, so that it travels to the workers by value
        return Facts(num_frames=storage.settings().attempts, sha256=os.environ["AWS_ENDPOINT_URL"])

    storage.configure(dataclasses.replace(storage.settings(), attempts=9))
    ((_, facts),) = inspect_files([FileToLook(0, "x")], 1, ask)
    assert (facts.num_frames, facts.sha256) == (9, os.environ["AWS_ENDPOINT_URL"])
