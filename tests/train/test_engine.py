"""DeepSpeed in two gloo processes: all ZeRO stages agree, resume bit for bit, and fail on all ranks together."""

from __future__ import annotations

import dataclasses
import itertools
import math
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import engine_runs
import pytest
import torch
from engine_runs import SAVED_AT, STEPS, Result
from gloo_ranks import run_ranks

from discovr_ray.model.discovr import Student
from discovr_ray.train.deepspeed_config import accumulation, deepspeed_config, parameter_groups, teacher_config

pytestmark = pytest.mark.dist
STAGES = range(4)
PASSES = (1, 2)  # per step, on each of two ranks
# sums over ranks, buckets and partitions are taken in different orders: a few units in fp32's last place
FP32 = {"rel": 1e-5, "abs": 1e-6}
# bf16 keeps 8 bits; reordering a sum moves a gradient by up to one of them
BF16 = {"rel": 4e-3, "abs": 1e-3}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engine")


@pytest.fixture(scope="module")
def two_ranks(base: Path) -> list[dict[Any, Any]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_EXTENSIONS_DIR", str(base / "extensions"))
        return run_ranks(2, engine_runs.all_stages, base / "two", base)


@pytest.fixture(scope="module")
def one_rank(base: Path) -> dict[tuple[int, int], Result]:
    (results,) = run_ranks(1, engine_runs.accumulations, base / "one")
    return results


def assert_same_bits(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    assert [name for name in left if not torch.equal(left[name], right[name])] == []


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("passes", PASSES)
def test_stages_give_the_same_trace(two_ranks: list[dict[Any, Any]], stage: int, passes: int) -> None:
    """Stage 0 with one pass is what the other stages, and two passes, are held against."""
    for kind in ("fp32", "clipped"):
        expected, found = two_ranks[0][0, kind, 1], two_ranks[0][stage, kind, passes]
        assert found.losses == pytest.approx(expected.losses, **FP32), kind
        assert found.norms == pytest.approx(expected.norms, **FP32), kind
        assert found.losses == two_ranks[1][stage, kind, passes].losses


@pytest.mark.parametrize("stage", STAGES)
def test_stages_give_the_same_trace_in_bf16(two_ranks: list[dict[Any, Any]], stage: int) -> None:
    expected, found = two_ranks[0][0, "bf16", 1], two_ranks[0][stage, "bf16", 1]
    assert found.losses == pytest.approx(expected.losses, **BF16)
    assert found.norms == pytest.approx(expected.norms, **BF16)


def test_training_moves_and_clipping_changes_it(two_ranks: list[dict[Any, Any]]) -> None:
    free, clipped = two_ranks[0][0, "fp32", 1], two_ranks[0][0, "clipped", 1]
    assert free.losses[-1] < free.losses[0]
    assert min(free.norms) > 0.05  # the limit, so that it acts
    assert clipped.norms[0] == pytest.approx(free.norms[0], **FP32)  # reported before clipping
    assert clipped.losses[-1] != pytest.approx(free.losses[-1], **FP32)


@pytest.mark.parametrize("stage", STAGES)
def test_one_process_equals_two(
    two_ranks: list[dict[Any, Any]], one_rank: dict[tuple[int, int], Result], stage: int
) -> None:
    two, one = two_ranks[0][stage, "fp32", 1], one_rank[stage, 8]
    assert one.losses == pytest.approx(two.losses, **FP32)
    assert one.norms == pytest.approx(two.norms, **FP32)
    for name, tensor in one.teacher.items():
        torch.testing.assert_close(two.teacher[name], tensor, rtol=1e-4, atol=2e-5, msg=name)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("micro_batch", [4, 2])
def test_accumulation_equals_one_pass(one_rank: dict[tuple[int, int], Result], stage: int, micro_batch: int) -> None:
    expected, found = one_rank[stage, 8], one_rank[stage, micro_batch]
    assert found.losses == pytest.approx(expected.losses, **FP32)
    assert found.norms == pytest.approx(expected.norms, **FP32)


@pytest.mark.parametrize("stage", STAGES)
def test_bf16_keeps_fp32_weights(two_ranks: list[dict[Any, Any]], stage: int) -> None:
    result = two_ranks[0][stage, "bf16", 1]
    assert result.losses != two_ranks[0][stage, "fp32", 1].losses  # bf16 is really used
    for name, tensor in [*result.student.items(), *result.teacher.items()]:
        assert tensor.dtype == torch.float32, name
    weight = result.teacher["video.blocks.0.attn.qkv.weight"]
    assert not torch.equal(weight, weight.bfloat16().float())


@pytest.mark.parametrize("stage", STAGES)
def test_recomputed_activations_change_nothing(two_ranks: list[dict[Any, Any]], stage: int) -> None:
    plain, recomputed = two_ranks[0][stage, "bf16", 1], two_ranks[0][stage, "recomputed", 1]
    assert recomputed.losses == plain.losses
    assert_same_bits(recomputed.student, plain.student)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("passes", PASSES)
def test_resume_in_new_processes_is_bit_for_bit(
    two_ranks: list[dict[Any, Any]], resumed: list[dict[tuple[int, int], Result]], stage: int, passes: int
) -> None:
    for rank in range(2):
        straight, after = two_ranks[rank][stage, "fp32", passes], resumed[rank][stage, passes]
        assert after.losses == straight.losses[SAVED_AT:STEPS]
        assert after.norms == straight.norms[SAVED_AT:STEPS]
        assert_same_bits(after.student, straight.student)
        assert_same_bits(after.teacher, straight.teacher)
        assert two_ranks[rank][stage, "after saving", passes].losses == straight.losses[SAVED_AT:]


@pytest.fixture(scope="module")
def resumed(two_ranks: list[dict[Any, Any]], base: Path) -> list[dict[tuple[int, int], Result]]:
    return run_ranks(2, engine_runs.load_all_stages, base / "resumed", base)


@pytest.mark.parametrize("stage", STAGES)
def test_checkpoint_files(two_ranks: list[dict[Any, Any]], base: Path, stage: int) -> None:
    """Two of each rank, about as large as the other's: nobody writes the whole alone."""
    folder = engine_runs.folder_of(base, stage)
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    for module in ("student", "teacher"):
        first, second = (sizes.pop(f"{module}_zero{stage}_{rank}_of_2.safetensors") for rank in range(2))
        assert 0.8 < first / second < 1.25
    assert sizes == {}
    assert [path.name for path in folder.parent.iterdir()] == ["step_00000002"]


def test_a_gradient_that_is_not_finite_changes_nothing_on_any_rank(two_ranks: list[dict[Any, Any]]) -> None:
    """Neither now nor later: "after saving" and "clipped" above go on from such a step."""
    for stage, passes, rank in itertools.product(STAGES, PASSES, range(2)):
        skips = [
            two_ranks[rank][stage, "skipped", passes],
            *two_ranks[rank][stage, "skipped and clipped", passes],
        ]
        for skip in skips:
            assert not math.isfinite(skip.norm), (stage, passes, rank)
            assert skip.weights_stayed, (stage, passes, rank)
            assert skip.steps_counted == 0, (stage, passes, rank)


def test_nothing_is_compiled(two_ranks: list[dict[Any, Any]]) -> None:
    assert not any(results["built"] for results in two_ranks)


def test_sharded_teacher_update_equals_a_gathered_one(base: Path) -> None:
    first, second = run_ranks(2, engine_runs.sharded_update, base / "sharded")
    expected = {
        name: first["before"][name].lerp(first["student"][name], 1 - 0.9999)
        for name in first["before"]
        if name in first["student"]
    }
    assert_same_bits(expected, {name: first["after"][name] for name in expected})
    moved = sum(int((first["after"][name] != first["before"][name]).sum()) for name in expected)
    total = sum(tensor.numel() for tensor in expected.values())
    assert moved > 0.8 * total  # tiny steps do change fp32 teachers
    assert total <= first["held"] + second["held"] < 1.1 * total  # each rank holds half
    for rank in (first, second):
        assert rank["collectives of the update"] == []
        assert rank["collectives of gathering"] != []  # so the profiler would have seen them


def test_full_disk_on_one_rank_is_an_error_on_all(base: Path, small_disk: Path | None) -> None:
    healthy, full = run_ranks(2, engine_runs.save_without_space, base / "full", small_disk, base / "full_disk")
    for message in full:
        assert "rank 1 cannot write the checkpoint" in message
        assert "MiB free" in message
    for message in healthy:
        assert "rank 0 cannot write the checkpoint: another rank failed" in message


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path | None]:
    """A disk of 64 KiB; None when this user may not mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        yield None
        return
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_checkpoints_of_other_models_are_refused(base: Path) -> None:
    """On every rank, though each sees only what its own part shows."""
    by_rank = run_ranks(2, engine_runs.misfits, base / "misfits", base / "misfit")
    missing, *other_models = zip(*by_rank, strict=True)
    for rank, error in enumerate(missing):
        assert "cannot load the checkpoint: No such file or directory" in error
        assert f"student_zero1_{rank}_of_2.safetensors" in error
    for errors in other_models:
        assert all("cannot load the checkpoint: " in error for error in errors)
        assert any("in the checkpoint and" in error or "in none of the checkpoint" in error for error in errors)


def test_nothing_in_a_checkpoint_is_a_pickle(base: Path) -> None:
    (seen,) = run_ranks(1, engine_runs.open_planted_pickle, base / "planted", base / "pickle")
    assert seen["whole"] is not None
    assert seen["restored"] is None  # its hash is another
    assert "cannot load the checkpoint" in seen["error of loading"]
    assert not seen["opened"]
    assert seen["would act"]  # the control: it is a pickle that acts


def test_config_follows_from_ours() -> None:
    config = engine_runs.configure(2, "bf16", micro_batch=2, clip=0.3)
    built = deepspeed_config(config, world_size=2)
    assert accumulation(config, 2) == built["gradient_accumulation_steps"] == 2
    assert built["train_micro_batch_size_per_gpu"] == 2
    assert built["gradient_clipping"] == 0.3
    assert built["zero_optimization"]["stage"] == 2
    assert built["torch_autocast"]["enabled"]
    assert not deepspeed_config(engine_runs.configure(2), 1)["torch_autocast"]["enabled"]
    assert teacher_config(config, 2)["zero_optimization"]["stage3_param_persistence_threshold"] == 0


def test_weight_decay_spares_vectors_tokens_and_prototypes() -> None:
    config = engine_runs.configure(0)
    student = Student(config)
    decayed, spared = parameter_groups(student, dataclasses.replace(config.optim, weight_decay=0.3))
    names = {id(parameter): name for name, parameter in student.named_parameters()}
    spared_names = {names[id(parameter)] for parameter in spared["params"]}
    decayed_names = {names[id(parameter)] for parameter in decayed["params"]}
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.3, 0.0)
    assert spared_names | decayed_names == set(names.values())
    assert not spared_names & decayed_names
    for name in ("video.cls_token", "decoder.mask_token", "prototypes.weight", "image.norm.weight"):
        assert name in spared_names
    assert {"video.blocks.0.attn.qkv.weight", "video_head.last_layer.weight_v"} <= decayed_names
