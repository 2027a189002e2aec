"""The same promises on a local disk, on a real S3 server and through any other driver of fsspec."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from ray.data._internal.metadata_exporter import sanitize_for_struct

from discovr_ray.config import StorageConfig
from discovr_ray.data import storage
from discovr_ray.data.storage import remote, s3
from discovr_ray.errors import MissingFileError, StorageError


@pytest.fixture(params=["local", "memory", pytest.param("s3", marks=pytest.mark.s3)])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A place where nothing is yet. memory:// is fsspec's own driver for tests: one that is not S3."""
    if request.param == "local":
        return str(tmp_path / "root")
    if request.param == "memory":
        return f"memory://{tmp_path.name}/root"
    return f"{request.getfixturevalue('s3_server').uri}/{tmp_path.name}"


def test_bytes_there_and_back(root: str) -> None:
    uri = storage.join(root, "deep", "file.bin")
    assert not storage.exists(uri)
    storage.write_bytes(uri, b"first, longer")
    storage.write_bytes(uri, b"second")
    assert storage.read_bytes(uri) == b"second"
    assert storage.file_size(uri) == 6
    assert storage.exists(uri)
    assert storage.exists(storage.join(root, "deep"))
    storage.write_bytes(uri, b"")
    assert storage.read_bytes(uri) == b""


def test_files_there_and_back(root: str, tmp_path: Path) -> None:
    content = os.urandom(3_000_000)
    (tmp_path / "source").write_bytes(content)
    storage.put_file(str(tmp_path / "source"), storage.join(root, "copy"))
    assert storage.read_bytes(storage.join(root, "copy")) == content
    storage.get_file(storage.join(root, "copy"), str(tmp_path / "new" / "back"))
    assert (tmp_path / "new" / "back").read_bytes() == content


def test_listing(root: str) -> None:
    names = ["b.avi", "a/2.AVI", "a/1.avi", "a/deep/3.mp4", "c.txt"]
    for name in names:
        storage.write_bytes(storage.join(root, name), b"x")
    full = {name: f"{root}/{name}" for name in names}
    assert storage.list_files(root) == sorted(full.values())
    assert storage.list_files(root, (".avi",)) == [full["a/1.avi"], full["a/2.AVI"], full["b.avi"]]
    assert storage.list_files(full["c.txt"]) == [full["c.txt"]]
    assert storage.list_folders(root) == [f"{root}/a"]
    assert storage.list_folders(f"{root}/a") == [f"{root}/a/deep"]
    assert storage.list_folders(f"{root}/none") == []
    assert storage.glob(f"{root}/*/*.avi") == [full["a/1.avi"]]
    assert storage.glob(f"{root}/**/*.mp4") == [full["a/deep/3.mp4"]]
    assert storage.glob(f"{root}/a/*") == [full["a/1.avi"], full["a/2.AVI"]]  # not the folder a/deep
    assert storage.glob(f"{root}/*.mkv") == []
    assert storage.list_sizes(root) == dict.fromkeys(sorted(names), 1)
    assert storage.list_sizes(f"{root}/a/") == {"1.avi": 1, "2.AVI": 1, "deep/3.mp4": 1}
    assert storage.list_sizes(f"{root}/none") == {}


def test_a_file_read_from_its_start(root: str) -> None:
    storage.write_bytes(f"{root}/lines", b"one\ntwo\n")
    with storage.open_file(f"{root}/lines") as file:
        assert list(file) == [b"one\n", b"two\n"]
    with pytest.raises(StorageError, match="none: cannot read: no such file"), storage.open_file(f"{root}/none"):
        pass


def test_parts(root: str) -> None:
    uri = storage.join(root, "parts")
    storage.write_bytes(uri, b"0123456789")
    assert storage.read_once(uri) == b"0123456789"
    assert storage.read_range(uri, 2, 3) == b"234"
    assert storage.read_range(uri, 0, 10) == b"0123456789"
    assert storage.read_range(uri, 8, 5) == b"89"
    assert storage.read_range(uri, 3, 0) == b""


def test_a_listing_shows_what_was_just_written(root: str) -> None:
    storage.write_bytes(storage.join(root, "a"), b"")
    assert len(storage.list_files(root)) == 1
    storage.write_bytes(storage.join(root, "b"), b"")
    assert len(storage.list_files(root)) == 2


def test_removal(root: str) -> None:
    for name in ("keep/x", "gone/x", "gone/y/z"):
        storage.write_bytes(storage.join(root, name), b"1")
    storage.remove_tree(storage.join(root, "gone"))
    storage.remove_tree(storage.join(root, "never", "there"))
    assert storage.list_files(root) == [f"{root}/keep/x"]
    storage.remove_tree(storage.join(root, "keep", "x"))
    assert not storage.exists(storage.join(root, "keep", "x"))


@pytest.mark.parametrize("call", [storage.read_bytes, storage.file_size, storage.list_files])
def test_missing(root: str, call: object) -> None:
    uri = storage.join(root, "missing")
    with pytest.raises(StorageError, match=f"{re.escape(uri)}: .*no such file"):
        call(uri)


def test_arrow_filesystem(root: str) -> None:
    uri = storage.join(root, "x.bin")
    storage.write_bytes(uri, b"12345")
    filesystem, path = storage.arrow_filesystem(uri)
    if filesystem is None:
        assert path == uri
        return
    if uri.startswith("memory://"):
        assert filesystem.get_file_info(path).size == 5
        return  # its bytes stay where they are: nothing to pickle
    again = pickle.loads(pickle.dumps(filesystem))
    assert again.get_file_info(path).size == 5
    with again.open_output_stream(path + "2") as file:
        file.write(b"67")
    assert storage.read_bytes(uri + "2") == b"67"


# --- local disks


def test_paths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    assert storage.absolute("runs/../x") == f"{tmp_path}/x"
    assert storage.absolute("~/x") == "/home/someone/x"
    assert storage.absolute("file:///data/x") == "/data/x"
    assert storage.absolute("s3://bucket/x/") == "s3://bucket/x"
    assert storage.join("s3://bucket/", "a", "/b/") == "s3://bucket/a/b"
    assert storage.join("/", "a") == "/a"


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("gs://bucket/x", r"gs://bucket/x: the driver of gs:// is not installed: pip install 'discovr-ray\[gcs\]'"),
        ("abfs://box/x", r"the driver of abfs:// is not installed: pip install 'discovr-ray\[azure\]'"),
        ("az://box/x", r"the driver of az:// is not installed: pip install 'discovr-ray\[azure\]'"),
        ("floppy://a/x", r"floppy://a/x: unknown storage floppy://; local paths, s3://, gs:// and abfs://"),
    ],
)
def test_a_driver_that_is_missing_is_named(uri: str, message: str) -> None:
    if importlib.util.find_spec("gcsfs") or importlib.util.find_spec("adlfs"):
        pytest.skip("a driver is installed here")
    for call in (storage.absolute, storage.read_bytes, storage.list_files, storage.exists, storage.remove_tree):
        with pytest.raises(MissingFileError, match=message):
            call(uri)
    with pytest.raises(MissingFileError, match=message):
        storage.write_bytes(uri, b"")


@pytest.mark.parametrize(
    ("uri", "expected"),
    [("s3://b/x", True), ("gs://b/x", True), ("/data/x", False), ("x/y", False), ("file:///data/x", False)],
)
def test_what_is_remote(uri: str, expected: bool) -> None:
    assert storage.is_remote(uri) is expected


# --- settings and credentials, from process to process


def test_access_carries_settings_and_credentials_and_shows_neither(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted")
    monkeypatch.setenv("DISCOVR_STORAGE", "")
    storage.configure(StorageConfig(attempts=7, read_timeout_s=1.5))
    access = storage.access()
    sent = pickle.dumps(access)
    assert "planted" not in f"{access!r} {access!s}"
    assert "planted" not in json.dumps(sanitize_for_struct({"task": [access]}))  # what Ray Data lists of arguments
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "other")
    monkeypatch.setenv("DISCOVR_STORAGE", "")
    assert storage.settings() == StorageConfig()
    storage.adopt(pickle.loads(sent))
    assert storage.settings() == StorageConfig(attempts=7, read_timeout_s=1.5)
    assert os.environ["AWS_SECRET_ACCESS_KEY"] == "planted"  # pragma: allowlist secret
    code = "from discovr_ray.data import storage; print(storage.settings().attempts)"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout == "7\n"  # a child process has them without being told


@pytest.mark.s3
def test_the_client_follows_the_settings(s3_server: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISCOVR_STORAGE", json.dumps({"read_timeout_s": 2, "write_timeout_s": 33, "attempts": 3}))
    options = {use: s3.client(use).config_kwargs for use in ("look", "get", "write")}
    assert [options[use]["read_timeout"] for use in ("look", "get", "write")] == [32, 32, 33]
    assert [options[use]["retries"]["total_max_attempts"] for use in ("look", "get", "write")] == [3, 1, 3]


def test_unwritable_places(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (f"{tmp_path}/file/below", "/proc/nothing/here"):  # also refused to root
        with pytest.raises(StorageError, match=f"{place}/x: cannot write"):
            storage.write_bytes(f"{place}/x", b"1")


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = str(tmp_path / "shard")
    storage.write_bytes(uri, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for write in (
        lambda: storage.write_bytes(uri, b"new"),
        lambda: storage.put_file(uri, uri),
        lambda: storage.get_file(uri, str(tmp_path / "copy")),
    ):
        with pytest.raises(StorageError, match="No space left on device"):
            write()
    assert Path(uri).read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["shard"]


def test_linked_folders_are_listed_once(tmp_path: Path) -> None:
    (tmp_path / "disk" / "videos").mkdir(parents=True)
    (tmp_path / "disk" / "videos" / "a.avi").write_text("")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "link").symlink_to(tmp_path / "disk" / "videos")
    (tmp_path / "disk" / "videos" / "loop").symlink_to(tmp_path / "disk")
    assert storage.list_files(str(tmp_path / "set")) == [f"{tmp_path}/set/link/a.avi"]


def test_names_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "gut ö.avi").write_text("")
    assert storage.list_files(str(tmp_path)) == [f"{tmp_path}/gut ö.avi"]
    (tmp_path / os.fsdecode(b"latin \xf6.avi")).write_text("")
    with pytest.raises(StorageError, match=r"latin \\xf6.avi': the name is not UTF-8"):
        storage.list_files(str(tmp_path))


# --- S3


@pytest.mark.s3
def test_a_listing_of_several_pages(s3_server: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "PAGE_KEYS", 7)
    names = [f"s3://bucket/pages/{number // 5}/{number:02d}" for number in range(20)]
    for name in names:
        storage.write_bytes(name, b"1")
    assert sorted(storage.walk_files("s3://bucket/pages")) == names
    assert len(storage.list_sizes("s3://bucket/pages")) == 20


@pytest.mark.s3
def test_wrong_credentials(s3_server: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    for call in (storage.read_bytes, storage.list_files, storage.exists, lambda uri: storage.write_bytes(uri, b"")):
        with pytest.raises(StorageError, match="s3://bucket/private"):
            call("s3://bucket/private")


@pytest.mark.s3
def test_unknown_bucket(s3_server: object) -> None:
    with pytest.raises(StorageError, match="s3://nowhere/x"):
        storage.read_bytes("s3://nowhere/x")


def test_unreachable_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "x"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StorageError, match=r"s3://bucket/x: cannot read: .*127\.0\.0\.1:9"):
        storage.read_bytes("s3://bucket/x")


def test_what_a_server_says_of_an_object_does_not_name_it() -> None:
    said = 'User: arn:aws:iam::1:user/u is not authorized on: "arn:aws:s3:::bucket/Doe J/x.avi" because no policy'
    found = remote.text_without_key(PermissionError(13, said), "s3://bucket/Doe J/x.avi")
    assert found == 'User: (ARN) is not authorized on: "(ARN)" because no policy'
    assert remote.text_without_key(OSError("Slow down, text/xml"), "s3://bucket/x") == "Slow down, text/xml"


def test_checksum_modes_for_servers_other_than_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    assert storage.environment() == {}
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_supported")
    assert storage.environment() == {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_supported",
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
    }


@pytest.mark.s3
def test_threads_share_one_client(s3_server: object) -> None:
    storage.write_bytes("s3://bucket/threads/x", b"shared")
    clients = set()

    def read(_: int) -> bytes:
        clients.add(id(s3.client("get")))
        return storage.read_bytes("s3://bucket/threads/x")

    for _ in range(3):  # a new pool means new threads
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(read, range(8))) == [b"shared"] * 8
    assert len(clients) == 1
