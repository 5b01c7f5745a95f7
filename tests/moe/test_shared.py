"""Shared experts beside a block of every system, against plain formulas in float64."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from smoe_mt.moe import MoE, MoEBlock, SharedExperts, StratifiedMoE
from smoe_mt.moe.shared import with_shared_experts
from tests.moe.test_conformance import D, banks, every_system, make, tokens

N = 2


def beside(block: MoEBlock, shared: int = N, seed: int = 7, **settings: Any) -> SharedExperts:
    torch.manual_seed(seed)
    made = SharedExperts(block, shared, D, **settings).double().eval()
    if made.norm is not None:
        nn.init.normal_(made.norm.weight)
    return made


def ffn(made: SharedExperts, x: Tensor) -> Tensor:
    """FFN(x), or FFN(norm(x)), by hand."""
    if made.norm is not None:
        centred = x - x.mean(-1, keepdim=True)
        scale = (centred.square().mean(-1, keepdim=True) + made.norm.eps).sqrt()
        x = centred / scale * made.norm.weight + made.norm.bias
    fc1, fc2 = (cast(nn.Linear, made.shared[name]) for name in ("fc1", "fc2"))
    hidden = (x @ fc1.weight.T + fc1.bias).clamp(min=0)
    return hidden @ fc2.weight.T + fc2.bias


@every_system
def test_the_ffn_is_added_to_what_the_block_gives(name: str) -> None:
    block, x = make(name), tokens(4, 5)
    made = beside(block)
    y, routing = made(x)
    want, plain = block(x)
    torch.testing.assert_close(y, want + ffn(made, x))
    assert routing.losses.keys() == plain.losses.keys() and routing.visits.equal(plain.visits)
    assert made.has_residual is block.has_residual


@every_system
def test_it_is_n_times_as_wide_as_an_expert_and_counts_in_units(name: str) -> None:
    block, x = make(name), tokens(4, 5)
    made = beside(block)
    sizes = {size for bank in banks(block) for size in bank.hidden_sizes}
    if len(sizes) == 1:
        assert made.units == N * sizes.pop()
    mask = torch.zeros(4, 5, dtype=torch.bool)
    mask[:, 3:] = True
    assert made(x, mask)[1].units.equal(block(x, mask)[1].units + made.units * (~mask))
    own = sum(p.numel() for p in made.parameters()) - sum(p.numel() for p in block.parameters())
    assert own == made.units * (2 * D + 1) + D + (2 * D if block.has_residual else 0)


@every_system
def test_its_flops_are_two_products(name: str) -> None:
    block, x, found = make(name), tokens(30), []
    made = beside(block)
    with torch.no_grad():
        block(x)  # weights that are computed are kept from now on
    for each in (block, made):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            each(x)
        found.append(counter.get_total_flops())
    assert found[1] - found[0] == 30 * 4 * D * made.units


@pytest.mark.parametrize("name", ["vanilla", "stratified"])
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    made, x = beside(make(name)), tokens(5).requires_grad_()
    names = [each for each, _ in made.named_parameters()]

    def run(x: Tensor, *parameters: Tensor) -> Tensor:
        y, _ = torch.func.functional_call(made, dict(zip(names, parameters)), (x,))
        total: Tensor = y.sin().sum()
        return total

    parameters = tuple(each.detach().clone().requires_grad_() for each in made.parameters())
    assert torch.autograd.gradcheck(run, (x, *parameters), fast_mode=True, atol=1e-4)


@pytest.mark.parametrize("name", ["vanilla", "stratified"])
@pytest.mark.parametrize("there", [1e6, float("nan")])
def test_padding_changes_nothing_whatever_lies_there(name: str, there: float) -> None:
    made, x = beside(make(name)), tokens(2, 5).requires_grad_()
    mask = torch.zeros(2, 7, dtype=torch.bool)
    mask[:, 5:] = True
    y, _ = made(x)
    (y.sin().sum()).backward()
    fc1 = cast(nn.Linear, made.shared["fc1"])
    assert fc1.weight.grad is not None and x.grad is not None
    want = [fc1.weight.grad.clone(), x.grad.clone()]
    made.zero_grad()
    padded = torch.cat([x.detach(), torch.full((2, 2, D), there, dtype=torch.double)], dim=1).requires_grad_()
    y_padded, _ = made(padded, mask)
    torch.testing.assert_close(y_padded[:, :5], y)
    rest = y_padded[:, 5:].detach()
    assert rest.equal(padded[:, 5:]) or rest.isnan().all() if made.has_residual else not rest.any()
    y_padded[:, :5].sin().sum().backward()
    torch.testing.assert_close(fc1.weight.grad, want[0])
    assert padded.grad is not None
    torch.testing.assert_close(padded.grad[:, :5], want[1])


@every_system
def test_a_sentence_does_not_depend_on_its_batch(name: str) -> None:
    made, x = beside(make(name)), tokens(5, 4)
    torch.testing.assert_close(made(x)[0], torch.cat([made(sentence[None])[0] for sentence in x]))


def settings(**changed: Any) -> SimpleNamespace:
    return SimpleNamespace(
        **{"variant": "paper", "activation_fn": "relu", "dropout": 0.1, "shared_experts": N, **changed}
    )


@pytest.mark.parametrize(
    "block, variant, dropout",
    [
        (MoE(D, 16, 4), "paper", 0.0),  # the transformer layer has it
        (MoE(D, 16, 4), "release", 0.1),
        (StratifiedMoE(D, 16, (2, 2)), "paper", 0.1),
        (StratifiedMoE(D, 16, (2, 2)), "release", 0.1),
    ],
    ids=["plain", "plain release", "strata", "strata release"],
)
def test_dropout_is_where_no_layer_around_it_has_it(block: MoEBlock, variant: str, dropout: float) -> None:
    made = with_shared_experts(settings(variant=variant), block, D)
    assert isinstance(made, SharedExperts) and made.dropout == dropout


def test_without_them_a_block_stays_as_it_is() -> None:
    block = make("vanilla")
    assert with_shared_experts(settings(shared_experts=0), block, D) is block
    with pytest.raises(ValueError, match="shared_experts must be at least 1 here"):
        SharedExperts(block, 0, D)
    with pytest.raises(ValueError, match="unknown activation"):
        with_shared_experts(settings(activation_fn="tanh"), block, D)
