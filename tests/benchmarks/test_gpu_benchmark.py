"""The GPU benchmark runs on a CPU, on its own, and counts operations rightly."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TINY = ["--size", "tiny", "--device", "cpu", "--steps", "1", "--json"]


@pytest.fixture
def in_benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_it_runs_without_ray_pydantic_and_deepspeed() -> None:
    program = (
        "import runpy, sys\n"
        "for name in ('ray', 'pydantic', 'deepspeed', 'pyarrow', 'fsspec'):\n"
        "    sys.modules[name] = None\n"
        f"sys.path.insert(0, {str(BENCHMARKS)!r})\n"
        f"sys.argv = ['gpu.py', '--batches', '1', '2', *{TINY!r}]\n"
        f"runpy.run_path({str(BENCHMARKS / 'gpu.py')!r}, run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["parity"]["ok"]
    assert report["parity"]["gradients_difference"] == 0.0  # the CPU against itself
    assert 0 < report["parity"]["bf16_losses_difference"] < 0.02
    assert [batch["num_clips"] for batch in report["batches"]] == [1, 2]
    assert sum(part["share"] for part in report["components"]["parts"].values()) == pytest.approx(1, abs=1e-3)
    assert "ImportError" in report["deepspeed"]["skipped"] or "ModuleNotFound" in report["deepspeed"]["skipped"]


def test_a_step_with_deepspeed_is_the_step_without(in_benchmarks: None) -> None:
    """Two steps from the same weights, in fp32: the losses agree to 1e-5."""
    from one_step import DeepSpeedStep, OneStep, random_batch, tiny_config

    config, cpu = tiny_config("fp32", 2), torch.device("cpu")
    batch = random_batch(config, 2, cpu)
    plain, engine = OneStep(config, cpu), DeepSpeedStep(config, cpu)
    # the engine's process group stays: DeepSpeed keeps it for the life of the process
    for _ in range(2):
        torch.testing.assert_close(tuple(engine.step(*batch)), tuple(plain.step(*batch)), rtol=1e-5, atol=0)


def test_parity_fails_when_the_device_computes_something_else(
    in_benchmarks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gpu

    computed = gpu._everything

    def wrong_on_the_second_call(step: object, num_clips: int) -> object:
        seen = computed(step, num_clips)
        seen.gradients[3] = seen.gradients[3] * 1.01 if calls else seen.gradients[3]
        calls.append(1)
        return seen

    calls: list[int] = []
    monkeypatch.setattr(gpu, "_everything", wrong_on_the_second_call)
    report = gpu.parity(torch.device("cpu"))
    assert not report["ok"]
    assert report["gradients_difference"] == pytest.approx(0.01, rel=0.01)


@pytest.mark.parametrize(("method", "moved"), [("optimise", "student"), ("update_teacher", "teacher")])
def test_parity_fails_when_a_part_of_the_step_is_left_out(
    in_benchmarks: None, monkeypatch: pytest.MonkeyPatch, method: str, moved: str
) -> None:
    import gpu

    class Lazy(gpu.OneStep):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)
            if made:  # the device's side
                setattr(self, method, lambda *ignored: None)
            made.append(self)

    made: list[object] = []
    monkeypatch.setattr(gpu, "OneStep", Lazy)
    report = gpu.parity(torch.device("cpu"))
    assert not report["ok"]
    assert report[f"{moved}_moves_difference"] == pytest.approx(1.0)


def test_another_order_of_additions_is_no_disagreement(in_benchmarks: None) -> None:
    """Attention as plain products in place of the fused kernel, as on another device."""
    from gpu import MOVES_TOLERANCE, _everything, _relative_distance
    from one_step import OneStep, tiny_config

    config, cpu = tiny_config("fp32", 2), torch.device("cpu")
    fused = _everything(OneStep(config, cpu), 2)
    with sdpa_kernel(SDPBackend.MATH):
        plain = _everything(OneStep(config, cpu), 2)
    distances = {name: _relative_distance(move, plain.moves[name]) for name, move in fused.moves.items()}
    assert 0 < max(distances.values()) < MOVES_TOLERANCE / 2, distances


def test_operations_are_those_that_torch_counts(in_benchmarks: None) -> None:
    """Within 1 %, for attention as plain products: torch does not count the fused kernel of the CPU."""
    from gpu import step_flops
    from one_step import OneStep, random_batch, tiny_config

    config = tiny_config("fp32", 2)
    step = OneStep(config, torch.device("cpu"))
    batch = random_batch(config, 2, step.device)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        step.step(*batch)
    assert step_flops(config, 2) == pytest.approx(counter.get_total_flops(), rel=0.01)
