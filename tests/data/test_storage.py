"""The same promises on a local disk and on a real S3 server."""

from __future__ import annotations

import os
import pickle
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from discovr_ray.data import storage
from discovr_ray.errors import StorageError


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.s3)])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A place where nothing is yet."""
    if request.param == "local":
        return str(tmp_path / "root")
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
    assert storage.glob(f"{root}/*.mkv") == []


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
    with pytest.raises(StorageError, match="only local paths and s3"):
        storage.absolute("gs://bucket/x")


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


# --- S3


@pytest.mark.s3
def test_one_request_per_file(s3_server: object, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.write_bytes("s3://bucket/requests/x", b"1" * 100)
    filesystem = storage._s3()
    calls = []
    original = filesystem._call_s3

    async def counted(method: str, *args: object, **more: object) -> object:
        calls.append(method)
        return await original(method, *args, **more)

    monkeypatch.setattr(filesystem, "_call_s3", counted)
    storage.read_bytes("s3://bucket/requests/x")
    assert calls == ["get_object"]


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
        clients.add(id(storage._s3()))
        return storage.read_bytes("s3://bucket/threads/x")

    for _ in range(3):  # a new pool means new threads
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(read, range(8))) == [b"shared"] * 8
    assert len(clients) == 1
