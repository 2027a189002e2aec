"""Who may write into a run's folder, on a disk and on S3."""

from __future__ import annotations

from pathlib import Path

import pytest

from discovr_ray.data import storage
from discovr_ray.errors import RunTakenError, StorageError
from discovr_ray.train import claim
from discovr_ray.train.claim import Claim, begin_attempt


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.s3)])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path / "run")
    return storage.join(request.getfixturevalue("s3_server").uri, tmp_path.name)


def test_only_the_newest_group_of_workers_may_write(run: str) -> None:
    first = begin_attempt(run)
    first.check()
    second = begin_attempt(run)
    second.check()
    with pytest.raises(RunTakenError, match="another group of workers has taken the place"):
        first.check()
    assert first.suffix() == ""
    assert second.suffix() == f"_{second.number}"
    assert begin_attempt(run).number not in (first.number, second.number)


def test_a_start_that_was_found_dead_begins_nothing(run: str) -> None:
    one, other = Claim("1", 60.0, "here", holds=True), Claim("2", 60.0, "there", holds=True, took_over=("1",))
    claim.write(run, one)
    begin_attempt(run, "1").check()
    claim.write(run, other)
    assert claim.claims(run) == [one, other]  # it wrote once more, as its claim was about to be removed
    for _ in range(2):
        with pytest.raises(RunTakenError, match="another start of the job has taken this run over"):
            begin_attempt(run, "1")
        claim.remove(run, "1")
    begin_attempt(run, "2").check()
    claim.remove(run, "2")
    assert claim.claims(run) == []


def test_a_claim_of_another_version_is_read_and_a_damaged_one_named(tmp_path: Path) -> None:
    folder = tmp_path / claim.CLAIMS
    folder.mkdir()
    (folder / "1.json").write_text('{"start": "1", "timeout_s": 9.0, "place": "there", "colour": "blue"}')
    (folder / ".2.json.0123").write_text("half")  # about to be renamed
    assert claim.claims(str(tmp_path)) == [Claim("1", 9.0, "there")]
    (folder / "2.json").write_text("half")
    with pytest.raises(StorageError, match=r"claims/2\.json: not readable"):
        claim.claims(str(tmp_path))
