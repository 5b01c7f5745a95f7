"""A few tokens, which Python routes, come out as many do, which tensors route."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from smoe_mt.models import SMoETransformerConfig
from smoe_mt.moe import SYSTEMS, BlockPlace, MoE, RankK, StratifiedMoE, TopK, Weighting, routing_override
from smoe_mt.moe.block import outputs_only
from smoe_mt.moe.few import FEW_TOKENS
from smoe_mt.moe.systems.eom import DEFAULT_P

BLOCKS: dict[str, Any] = {
    "vanilla": lambda **o: MoE(16, 24, 5, **o),
    "switch": lambda **o: MoE(16, 24, 5, top_k=1, **o),
    "eom": lambda **o: MoE(16, 24, 5, eom_p=DEFAULT_P, **o),
    "stratified": lambda **o: StratifiedMoE(16, 24, (2, 3, 2), **o),
    "release": lambda **o: StratifiedMoE(16, 24, (2, 3), variant="release", **o),
}


def both(block: Any, tokens: int) -> tuple[Any, Any]:
    """Output and routing of a pass that asks for outputs alone, and of one that asks for all."""
    block.eval()
    x = torch.randn(tokens, 16)
    with torch.inference_mode():
        with outputs_only():
            few = block(x)
        return few, block(x)


def assert_alike(few: Any, whole: Any) -> None:
    torch.testing.assert_close(few[0], whole[0], rtol=1e-5, atol=1e-6)
    assert few[1].visits.equal(whole[1].visits)
    assert torch.as_tensor(few[1].units).equal(torch.as_tensor(whole[1].units))


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("tokens", [1, 5, FEW_TOKENS, FEW_TOKENS + 1])
def test_same_outputs_and_visits(name: str, activation: str, tokens: int) -> None:
    torch.manual_seed(0)
    assert_alike(*both(BLOCKS[name](activation=activation), tokens))


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system(system: str) -> None:
    torch.manual_seed(0)
    place = BlockPlace("encoder", 1, 16, 24, (2, 2) if SYSTEMS[system].nested or system == "stacking" else (4,))
    assert_alike(*both(SYSTEMS[system].build(SMoETransformerConfig(moe=system), place), 5))


@pytest.mark.parametrize("choice", [(RankK(2), Weighting.UNIFORM), (TopK(3), None), (None, Weighting.RAW)])
def test_another_routing(choice: Any) -> None:
    torch.manual_seed(0)
    block = BLOCKS["vanilla"]().eval()
    with routing_override(block, selection=choice[0], weighting=choice[1]):
        assert_alike(*both(block, 6))


def test_of_equal_experts_the_first_is_chosen() -> None:
    block = BLOCKS["vanilla"]().eval()
    with torch.no_grad():
        block.gate.weight.zero_()
    assert_alike(*both(block, 4))


@pytest.mark.parametrize("name", ["vanilla", "stratified"])
def test_beside_padding(name: str) -> None:
    torch.manual_seed(0)
    block, x = BLOCKS[name]().eval(), torch.randn(3, 4, 16)
    padding = torch.tensor([[False] * 4, [False, True] * 2, [True] * 4])
    with torch.inference_mode():
        with outputs_only():
            few = block(x, padding)
        assert_alike(few, block(x, padding))


@pytest.mark.parametrize("name", ["vanilla", "stratified"])
def test_a_token_that_is_not_finite_spoils_no_other(name: str) -> None:
    torch.manual_seed(0)
    block, x = BLOCKS[name]().eval(), torch.randn(4, 16)
    spoilt = x.index_fill(0, torch.tensor([1]), torch.nan)
    with torch.inference_mode(), outputs_only():
        good, bad = block(x)[0], block(spoilt)[0]
    others = [0, 2, 3]
    torch.testing.assert_close(bad[others], good[others])


def test_no_tokens() -> None:
    few, whole = both(BLOCKS["stratified"](), 0)
    assert few[0].shape == whole[0].shape == (0, 16)


def test_training_fills_in_its_routing() -> None:
    with outputs_only():
        assert BLOCKS["stratified"]().train()(torch.randn(4, 16))[1].load
