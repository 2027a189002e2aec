"""Encoders and decoder: sizes, masks, views, recomputation, and biases that must not exist."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_model import random_clips, tiny_config

from discovr_ray.config import MODEL_SIZES
from discovr_ray.model.blocks import Block, attend, sinusoid
from discovr_ray.model.decoder import Decoder
from discovr_ray.model.vit import Encoder, image_spec, patchify, video_spec

CONFIG = tiny_config()


def encoder(recompute: bool = False) -> Encoder:
    torch.manual_seed(0)
    return Encoder(video_spec(CONFIG), recompute)


def test_positions_by_hand() -> None:
    table = sinusoid(3, 4)
    assert table[0].tolist() == [0, 1, 0, 1]
    angles = [2.0, 2.0, 2 / 100, 2 / 100]
    expected = [math.sin(angles[0]), math.cos(angles[1]), math.sin(angles[2]), math.cos(angles[3])]
    assert table[2].tolist() == pytest.approx(expected)


def test_patches_are_the_convolutions() -> None:
    """To 1e-5: the convolution adds in another order. Tokens run along time, rows, columns."""
    model, clips = encoder(), random_clips(CONFIG, 2)
    convolved = torch.nn.functional.conv3d(clips, model.patch_embed.proj.weight, model.patch_embed.proj.bias, (2, 8, 8))
    ours = model.patch_embed(patchify(clips, 2, 8))
    torch.testing.assert_close(ours, convolved.flatten(2).transpose(1, 2), rtol=0, atol=1e-5)


def test_seeing_all_tokens_is_seeing_without_a_mask() -> None:
    model, clips = encoder(), random_clips(CONFIG, 2)
    everything = torch.arange(8).expand(2, -1)
    torch.testing.assert_close(tuple(model(clips, everything)), tuple(model(clips)), rtol=0, atol=1e-6)


def test_hidden_pixels_do_not_matter_and_visible_ones_do() -> None:
    model, clips = encoder(), random_clips(CONFIG, 1)
    visible = torch.tensor([[1, 5]])  # first row, right column, both slices
    before = model(clips, visible)
    hidden = clips.clone()
    hidden[..., :8] += 1  # left column
    assert torch.equal(model(hidden, visible).cls, before.cls)
    shown = clips.clone()
    shown[..., :8, 8:] += 1
    assert not torch.allclose(model(shown, visible).cls, before.cls, atol=1e-3)


def test_views_in_one_pass_equal_views_one_by_one() -> None:
    model, clips = encoder(), random_clips(CONFIG, 2)
    views = torch.tensor([[[0, 4], [1, 5]], [[2, 6], [0, 4]], [[3, 7], [3, 7]]])
    cls, patches = model(clips, views)
    assert (cls.shape, patches.shape) == ((3, 2, 24), (3, 2, 2, 24))
    for view, one_cls, one_patches in zip(views, cls, patches, strict=True):
        torch.testing.assert_close((one_cls, one_patches), tuple(model(clips, view)), rtol=0, atol=1e-6)


def test_the_cls_token_alone_is_the_same_cls_token() -> None:
    model, clips = encoder(), random_clips(CONFIG, 2)
    alone = Encoder(video_spec(CONFIG), cls_only=True)
    alone.load_state_dict(model.state_dict())
    for visible in (None, torch.tensor([[[0, 4], [1, 5]]])):
        cls, patches = alone(clips, visible)
        torch.testing.assert_close(cls, model(clips, visible).cls, rtol=0, atol=1e-6)
        assert patches.shape == (*cls.shape[:-1], 0, 24)


def test_wrong_clips_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3, 4, 8, 8\).*\(3, 4, 16, 16\)"):
        encoder()(torch.zeros(2, 3, 4, 8, 8))


def test_biases() -> None:
    video = dict(encoder().named_parameters())
    assert {"blocks.0.attn.q_bias", "blocks.1.attn.v_bias", "blocks.0.attn.proj.bias"} <= set(video)
    image = dict(Encoder(image_spec(CONFIG)).named_parameters())
    assert "blocks.0.attn.proj.bias" in image
    for names in (video, image):
        assert not [name for name in names if "k_bias" in name or "qkv.bias" in name]
    assert not [name for name in image if "q_bias" in name or "v_bias" in name]
    assert set(encoder().state_dict()) == set(video)  # positions are not stored


def test_recomputation_changes_no_gradient() -> None:
    clips, visible = random_clips(CONFIG, 2), torch.tensor([[[0, 4], [1, 5]]])
    gradients = []
    for recompute in (False, True):
        model = encoder(recompute)
        model(clips, visible).patches.square().sum().backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=0)


def test_recomputation_keeps_fewer_activations() -> None:
    def saved_bytes(recompute: bool) -> int:
        model, total = encoder(recompute), 0

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal total
            total += tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(random_clips(CONFIG, 2))
        return total

    assert saved_bytes(True) < saved_bytes(False) / 2


def test_cls_attention() -> None:
    """What is left of 1 is the CLS token's attention to itself; it agrees with the fused kernel's output."""
    model, clips = encoder(), random_clips(CONFIG, 2)
    attention = model.cls_attention(clips)
    assert attention.shape == (2, 8)
    assert (attention > 0).all()
    assert (attention.sum(dim=1) < 1).all()

    attn = model.blocks[-1].attn
    with torch.no_grad():
        attn.proj.weight.copy_(torch.eye(24))
        attn.proj.bias.zero_()
        x = torch.randn(2, 9, 24)
        q, k, v = attn._project(x)
        weights = (q @ k.transpose(-1, -2) / math.sqrt(12)).softmax(-1)
        torch.testing.assert_close(attn.cls_weights(x), weights.mean(1)[:, 0, 1:])
        torch.testing.assert_close(attn(x), (weights @ v).transpose(1, 2).flatten(2), rtol=0, atol=1e-6)


def test_decoder_puts_tokens_at_their_places() -> None:
    decoder = Decoder(CONFIG)
    tokens = torch.randn(2, 2, 24)
    visible = torch.tensor([[1, 5], [2, 6]])
    projected = decoder.project(tokens)
    placed = decoder.place(projected, visible)
    assert placed.shape == (2, 8, 12)
    for clip, kept in enumerate(visible.tolist()):
        for token in range(8):
            is_visible = token in kept
            expected = projected[clip, kept.index(token)] if is_visible else decoder.mask_token[0, 0]
            torch.testing.assert_close(placed[clip, token], expected)
    assert torch.equal(decoder.positions, sinusoid(8, 12))  # those of the encoder, in the decoder's width
    assert decoder(tokens, visible).shape == (2, 8, 24)


@pytest.mark.parametrize("size", MODEL_SIZES)
def test_every_size_can_be_built(size: str) -> None:
    width, _, heads, mlp_ratio = MODEL_SIZES[size]
    with torch.device("meta"):
        block = Block(width, heads, mlp_ratio, True, 1e-6)
    hidden = {"giant": 6144}.get(size, 4 * width)
    assert block.mlp.fc1.weight.shape == (hidden, width)


@pytest.mark.parametrize("tokens", [7, 600])
def test_bf16_attention_on_cpu_agrees_with_the_fused_kernel(tokens: int) -> None:
    """Values are of size 1 and bf16 keeps three digits: to 0.02, gradients too."""
    generator = torch.Generator().manual_seed(0)
    whole = [torch.randn(2, 3, tokens, 8, generator=generator) for _ in range(3)]
    ours = [one.bfloat16().requires_grad_() for one in whole]
    theirs = [one.requires_grad_() for one in whole]
    mixed, expected = attend(*ours), torch.nn.functional.scaled_dot_product_attention(*theirs)
    assert mixed.dtype == torch.bfloat16
    torch.testing.assert_close(mixed.float(), expected, rtol=0, atol=0.02)
    mixed.float().square().sum().backward()
    expected.square().sum().backward()
    for one, other in zip(ours, theirs, strict=True):
        assert one.grad is not None
        assert other.grad is not None
        torch.testing.assert_close(one.grad.float(), other.grad, rtol=0.03, atol=0.02 * float(other.grad.abs().max()))
