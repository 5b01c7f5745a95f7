"""Attention in training gives what fairseq's gives, where fairseq's is defined."""

from __future__ import annotations

import pytest
import torch
from fairseq.modules import MultiheadAttention
from torch import Tensor

from smoe_mt.models.attention import Attention

D, HEADS = 16, 4


def pair(**settings: bool) -> tuple[Attention, MultiheadAttention]:
    """Ours and fairseq's with the same weights, in training."""
    torch.manual_seed(0)
    ours, theirs = (kind(D, HEADS, **settings).double() for kind in (Attention, MultiheadAttention))
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ours.load_state_dict(theirs.state_dict())
    return ours.train(), theirs.train()


def causal(T: int) -> Tensor:
    return torch.full((T, T), float("-inf"), dtype=torch.float64).triu(1)


@pytest.mark.parametrize("padding", [None, "right", "left"])
@pytest.mark.parametrize("masked", [False, True])
def test_self_attention_and_its_gradients_are_those_of_fairseq(padding: str | None, masked: bool) -> None:
    if padding == "left" and masked:
        pytest.skip("a first query that sees padding alone: not a number with fairseq")
    ours, theirs = pair(self_attention=True)
    x = torch.randn(5, 3, D, dtype=torch.float64)
    pad = torch.zeros(3, 5, dtype=torch.bool)
    pad[1, 3:] = padding == "right"
    pad[2, :1] = padding == "left"
    found = []
    for attention in (ours, theirs):
        y, _ = attention(x, x, x, pad if padding else None, need_weights=False, attn_mask=causal(5) if masked else None)
        real = y.transpose(0, 1)[~pad]
        found.append((real, *torch.autograd.grad(real.square().sum(), list(attention.parameters()))))
    for mine, expected in zip(*found, strict=True):
        torch.testing.assert_close(mine, expected)


@pytest.mark.parametrize("padded", [False, True])
def test_attention_to_the_encoder_is_that_of_fairseq(padded: bool) -> None:
    ours, theirs = pair(encoder_decoder_attention=True)
    x, encoded = torch.randn(4, 3, D, dtype=torch.float64), torch.randn(6, 3, D, dtype=torch.float64)
    pad = torch.arange(6) >= torch.tensor([[6], [4], [1]])
    found = []
    for attention in (ours, theirs):
        y, _ = attention(x, encoded, encoded, pad if padded else None, static_kv=True)
        found.append((y, *torch.autograd.grad(y.square().sum(), list(attention.parameters()))))
    for mine, expected in zip(*found, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-5)  # fairseq's softmax is in float32


@pytest.mark.parametrize("masked", [False, True])
def test_a_row_of_nothing_but_padding_spoils_no_gradient(masked: bool) -> None:
    ours, _ = pair(self_attention=True)
    x = torch.randn(4, 2, D, dtype=torch.float64)
    pad = torch.tensor([[False] * 4, [True] * 4])
    y, _ = ours(x, x, x, pad, attn_mask=causal(4) if masked else None)
    alone, _ = ours(x[:, :1], x[:, :1], x[:, :1], pad[:1], attn_mask=causal(4) if masked else None)
    torch.testing.assert_close(y[:, :1], alone)
    gradients = torch.autograd.grad(y[:, :1].square().sum(), list(ours.parameters()))
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_evaluation_is_fairseqs_own() -> None:
    ours, theirs = (attention.eval() for attention in pair(encoder_decoder_attention=True))
    x, encoded = torch.randn(1, 3, D, dtype=torch.float64), torch.randn(6, 3, D, dtype=torch.float64)
    states: list[dict[str, dict[str, Tensor | None]]] = [{}, {}]
    (y, weights), (expected, expected_weights) = (
        attention(x, encoded, encoded, None, state, static_kv=True)
        for attention, state in zip((ours, theirs), states, strict=True)
    )
    assert torch.equal(y, expected)
    assert torch.equal(weights, expected_weights)
    assert states[0].keys() and states[1].keys()
