"""Another routing for an evaluation pass, which leaves no trace."""

from __future__ import annotations

import threading
from typing import Any, cast

import pytest
import torch

from smoe_mt.moe import Gate, MoE, RankK, StratifiedMoE, Threshold, TopK, Weighting, routing_override


@pytest.fixture
def block() -> StratifiedMoE:
    torch.manual_seed(0)
    made = StratifiedMoE(8, 12, (3, 3)).double().eval()
    for gate in made.gates:
        torch.nn.init.normal_(cast(Gate, gate).weight)
    return made


@pytest.fixture
def x() -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(20, 8, dtype=torch.double)


def test_rank_k_sends_each_token_to_its_kth_expert_with_weight_1() -> None:
    layer: Any = MoE(8, 12, 4).double().eval()
    torch.nn.init.normal_(layer.gate.weight)
    x = torch.randn(10, 8, dtype=torch.double)
    with routing_override(layer, selection=RankK(3), weighting=Weighting.UNIFORM):
        y, routing = layer(x)
    third = layer.gate(x).sort(dim=1, descending=True).indices[:, 2]
    want = torch.stack([layer.experts.expert_output(int(e), row[None])[0] for e, row in zip(third, x)])
    torch.testing.assert_close(y, want)
    assert routing.load[0].asked.equal(third.bincount(minlength=4))


def test_its_own_routing_as_an_override_changes_nothing(block: StratifiedMoE, x: torch.Tensor) -> None:
    want = block(x)[0]
    with routing_override(block, selection=TopK(2), weighting=Weighting.RENORMALISED):
        assert block(x)[0].equal(want)


def test_the_weak_pass_of_a_stratified_block_may_take_other_strata(block: StratifiedMoE, x: torch.Tensor) -> None:
    with routing_override(block, selection=RankK(2), weighting=Weighting.UNIFORM):
        visits = block(x)[1].visits
    assert not visits.equal(block(x)[1].visits)


def test_nothing_is_left_after_an_override_nor_after_an_exception(block: StratifiedMoE, x: torch.Tensor) -> None:
    want, state = block(x)[0], {name: value.clone() for name, value in block.state_dict().items()}
    with routing_override(block, selection=TopK(1)):
        assert not block(x)[0].equal(want)
    with pytest.raises(ArithmeticError), routing_override(block, selection=TopK(1)):
        raise ArithmeticError
    assert block(x)[0].equal(want)
    assert all(value.equal(state[name]) for name, value in block.state_dict().items())


def test_the_inner_of_two_overrides_wins_and_leaves_the_rest_to_the_outer(
    block: StratifiedMoE, x: torch.Tensor
) -> None:
    with routing_override(block, selection=TopK(1), weighting=Weighting.UNIFORM):
        outer = block(x)[0]
        with routing_override(block, selection=TopK(3)):
            inner = block(x)[0]
        assert block(x)[0].equal(outer)
    with routing_override(block, selection=TopK(3), weighting=Weighting.UNIFORM):
        assert block(x)[0].equal(inner)


def test_another_model_and_another_thread_are_not_affected(block: StratifiedMoE, x: torch.Tensor) -> None:
    other = StratifiedMoE(8, 12, (3, 3)).double().eval()
    want, of_other, found = block(x)[0], other(x)[0], []
    with routing_override(block, selection=TopK(1)):
        assert other(x)[0].equal(of_other)
        thread = threading.Thread(target=lambda: found.append(block(x)[0]))
        thread.start()
        thread.join()
    assert found[0].equal(want)


def test_threshold_can_be_swept_over_one_model(block: StratifiedMoE, x: torch.Tensor) -> None:
    units = []
    for threshold in (0.0, 0.5, 0.9):
        with routing_override(block, selection=Threshold(threshold), weighting=Weighting.RAW):
            units.append(block(x)[1].units.sum().item())
    assert units[0] < units[1] < units[2]


def test_more_than_a_gate_sees_is_refused(block: StratifiedMoE) -> None:
    words = "rank 4 needs at least 4 experts, but the gate of stratum 2 sees 3"
    with pytest.raises(ValueError, match=words), routing_override(block, selection=RankK(4)):
        pass


def test_training_is_refused(block: StratifiedMoE) -> None:
    with pytest.raises(ValueError, match="call model.eval"), routing_override(block.train(), selection=TopK(1)):
        pass
