"""A checkpoint is the same state at any number of ranks and any ZeRO stage: bit for bit, then the same losses."""

from __future__ import annotations

from pathlib import Path

import pytest
import shard_runs
import torch
from gloo_ranks import run_ranks
from shard_runs import LOADING, SAVING, STAGES, Trained, sources

from discovr_ray.train.shard_files import Piece, ShardFile, parse_name, read_pieces, write_pieces

# another number of ranks, or another stage, adds gradients in another order: a few units in fp32's last place
FP32 = {"rel": 1e-5, "abs": 1e-6}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shards")


@pytest.fixture(scope="module")
def saved(base: Path) -> dict[int, dict[int, Trained]]:
    """World size -> stage -> rank 0's."""
    return {size: run_ranks(size, shard_runs.save_all, base / f"save_{size}", base)[0] for size in SAVING}


@pytest.mark.dist
@pytest.mark.parametrize("world_size", LOADING)
def test_any_number_of_ranks_and_any_stage_load_the_same_state(
    saved: dict[int, dict[int, Trained]], base: Path, world_size: int
) -> None:
    loaded = run_ranks(world_size, shard_runs.load_all, base / f"load_{world_size}", base)[0]
    for stage in STAGES:
        for saved_ranks, saved_stage in sources(world_size, stage):
            case = f"{saved_ranks} ranks, stage {saved_stage} -> {world_size} ranks, stage {stage}"
            before, after = saved[saved_ranks][saved_stage], loaded[stage, saved_ranks, saved_stage]
            assert len(before.digests) > 300, case
            assert before.digests.keys() == after.digests.keys(), case
            assert [name for name in before.digests if before.digests[name] != after.digests[name]] == [], case
            assert before.adamw_steps == after.adamw_steps == shard_runs.SAVED_AT, case
            assert after.losses == pytest.approx(before.losses, **FP32), case
            assert after.norms == pytest.approx(before.norms, **FP32), case


def test_names_say_how_a_file_was_cut() -> None:
    file = ShardFile("student", 2, 1, 4)
    assert file.name == "student_zero2_1_of_4.safetensors"
    assert parse_name(file.name) == file
    assert parse_name("encoder.safetensors") is None


def piece(tensor: str, offset: int, values: list[float]) -> Piece:
    return Piece(tensor, offset, torch.tensor(values))


@pytest.fixture
def thirds(tmp_path: Path) -> list[Path]:
    """A tensor 0 1 2 3 4 5 6 cut in three, in files whose order is another; b is in one of them."""
    parts = {
        "c": [piece("a", 5, [5, 6])],
        "a": [piece("a", 0, [0, 1]), piece("b", 0, [9])],
        "b": [piece("a", 2, [2, 3, 4])],
    }
    for name, pieces in parts.items():
        write_pieces(tmp_path / name, pieces, {"a": 7, "b": 1}, {"steps": "3"})
    return [tmp_path / name for name in parts]


@pytest.mark.parametrize(("first", "last"), [(0, 7), (1, 6), (2, 5), (3, 4), (4, 7), (3, 3)])
def test_overlaps_fill_a_piece(thirds: list[Path], first: int, last: int) -> None:
    wanted = Piece("a", first, torch.full((last - first,), -1.0))
    notes = read_pieces(thirds, [wanted], {"a": 7, "b": 1})
    assert wanted.values.tolist() == list(range(first, last))
    assert notes == {"steps": "3"}


def test_a_hole_is_an_error(thirds: list[Path]) -> None:
    wanted = Piece("a", 1, torch.zeros(6))
    with pytest.raises(RuntimeError, match="a: elements 2 to 7 are in none of the checkpoint's files"):
        read_pieces(thirds[:2], [wanted], {"a": 7, "b": 1})
    with pytest.raises(RuntimeError, match="a: elements 1 to 7"):
        read_pieces(thirds[2:], [wanted], {"a": 7, "b": 1})


def test_other_tensors_are_an_error(thirds: list[Path]) -> None:
    with pytest.raises(RuntimeError, match="a has 7 elements in the checkpoint and 8 here"):
        read_pieces(thirds, [], {"a": 8, "b": 1})
    with pytest.raises(RuntimeError, match="b has 1 elements in the checkpoint and None here"):
        read_pieces(thirds, [], {"a": 7})


def test_notes_must_agree(thirds: list[Path]) -> None:
    write_pieces(thirds[0], [piece("a", 5, [5, 6])], {"a": 7}, {"steps": "4"})
    with pytest.raises(RuntimeError, match="shards disagree"):
        read_pieces(thirds, [], {"a": 7, "b": 1})


def test_shares_are_the_whole_once() -> None:
    whole = piece("a", 10, [0, 1, 2, 3, 4, 5, 6])
    shares = [whole.share(rank, 3) for rank in range(3)]
    assert [(share.offset, share.values.tolist()) for share in shares] == [(10, [0, 1]), (12, [2, 3]), (14, [4, 5, 6])]
    assert [len(piece("a", 0, [1]).share(rank, 3).values) for rank in range(3)] == [0, 0, 1]
