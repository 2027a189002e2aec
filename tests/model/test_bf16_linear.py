"""Linear maps in bf16 on a CPU against fp32 and against autograd's own; elsewhere torch's, bit for bit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from discovr_ray.model.linear import fp32_scores, linear, runs_in_bf16_on_cpu

with torch.autocast("cpu", torch.bfloat16):
    needs_bf16 = pytest.mark.skipif(not runs_in_bf16_on_cpu(torch.ones(1)), reason="this CPU has no bf16 products")

BF16_STEP = 2.0**-8  # relative distance of neighbours in bf16


def run(product: Callable[..., Tensor], autocast: bool, operands: list[Tensor], outer: Tensor) -> list[Tensor]:
    """The product, and its gradients for fresh copies of the operands."""
    leaves = [operand.clone().requires_grad_() for operand in operands]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output = product(*leaves)
    output.backward(outer.to(output.dtype))
    gradients = [leaf.grad for leaf in leaves if leaf.grad is not None]
    assert len(gradients) == len(operands)
    return [output.detach(), *gradients]


def operands(num_inputs: int, num_outputs: int, bias: bool) -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 40, num_inputs), (num_outputs, num_inputs), *([(num_outputs,)] if bias else [])]
    drawn = [torch.randn(shape, generator=generator) for shape in shapes]
    return drawn, torch.randn(3, 40, num_outputs, generator=generator)


def assert_within(found: Tensor, expected: Tensor, steps: float) -> None:
    """Equal to some bf16 steps of the largest value: sums of numbers of both signs lose the rest."""
    atol = steps * BF16_STEP * float(expected.abs().max())
    torch.testing.assert_close(found.float(), expected.float(), rtol=0, atol=atol)


@needs_bf16
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("num_inputs", "num_outputs"), [(96, 32), (32, 96), (48, 48)])
def test_bf16_values_and_gradients(num_inputs: int, num_outputs: int, bias: bool) -> None:
    """Operands are rounded by half a step each, and so is the result: as exact as autograd's own."""
    drawn, outer = operands(num_inputs, num_outputs, bias)
    ours = run(linear, True, drawn, outer)
    exact = run(functional.linear, False, drawn, outer)
    autograd = run(functional.linear, True, drawn, outer)
    assert ours[0].dtype == torch.bfloat16
    for mine, true, theirs in zip(ours, exact, autograd, strict=True):
        assert mine.dtype == theirs.dtype
        assert mine.is_contiguous()
        assert_within(mine, true, 2)
        assert_within(mine, theirs, 1)


@needs_bf16
def test_bf16_products_are_ours() -> None:
    drawn, _ = operands(32, 96, True)
    with torch.autocast("cpu", torch.bfloat16):
        assert "_Bf16Linear" in str(linear(drawn[0], drawn[1].requires_grad_()).grad_fn)


@needs_bf16
def test_only_what_is_asked_for_gets_a_gradient() -> None:
    """Pixels have none, and a frozen weight has none."""
    (pixels, weight, bias), _ = operands(32, 96, True)
    with torch.autocast("cpu", torch.bfloat16):
        linear(pixels, weight.requires_grad_(), bias).sum().backward()
        assert pixels.grad is None
        assert bias.grad is None
        linear(pixels.requires_grad_(), weight.detach(), bias).sum().backward()
    assert pixels.grad is not None


def test_no_rows_at_all() -> None:
    """A pass without views still runs the heads."""
    with torch.autocast("cpu", torch.bfloat16):
        output = linear(torch.ones(0, 4, 32), torch.ones(8, 32), torch.ones(8))
    assert output.shape == (0, 4, 8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_autocast_it_is_torch_to_the_bit(dtype: torch.dtype) -> None:
    drawn, outer = operands(32, 96, True)
    drawn = [one.to(dtype) for one in drawn]
    for mine, theirs in zip(run(linear, False, drawn, outer), run(functional.linear, False, drawn, outer), strict=True):
        assert torch.equal(mine, theirs)


def test_fast_scores_keep_fp32_sums() -> None:
    """Cosines up to 1, which rounded to bf16 would be off by 0.002; factors rounded to it are off by 0.0004."""
    generator = torch.Generator().manual_seed(0)
    weight = functional.normalize(torch.randn(60, 768, generator=generator), dim=1)
    blend = torch.linspace(0, 1, 50)[:, None]
    x = functional.normalize(blend * weight[0] + (1 - blend) * weight[1:51], dim=1).view(2, 25, 768)
    outer = torch.randn(2, 25, 60, generator=generator)
    fast = run(lambda a, b: fp32_scores(a, b, True), False, [x, weight], outer)
    exact = run(functional.linear, False, [x, weight], outer)
    assert fast[0].dtype == torch.float32
    torch.testing.assert_close(fast[0], exact[0], rtol=0, atol=6e-4)
    for mine, true in zip(fast[1:], exact[1:], strict=True):
        assert mine.dtype == torch.float32
        assert_within(mine, true, 2)


def test_other_fp32_products_stay_exact() -> None:
    """The precision is set for the one product, also when that fails; left set, products would be off by 0.03."""
    x, weight = torch.randn(64, 128), torch.randn(96, 128)
    exact = (x.double() @ weight.double().t()).float()
    fp32_scores(x, weight, True)
    torch.testing.assert_close(x @ weight.t(), exact, rtol=0, atol=1e-3)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        fp32_scores(x, weight[:, :100], True)
    torch.testing.assert_close(x @ weight.t(), exact, rtol=0, atol=1e-3)
    assert torch.equal(fp32_scores(x, weight, False), functional.linear(x, weight))
