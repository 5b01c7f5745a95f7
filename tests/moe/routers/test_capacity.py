"""The capacity dial: fewer or more visits of a trained block, each token by itself."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from smoe_mt.moe import BiasedStrata, Gate, MostVisits, Selection, StratifiedMoE, Threshold, TopK, routing_override

STRATA = [(2, 2), (3, 2, 4), (2, 2, 2, 2)]
EXTREME = 20.0


def block_of(strata: tuple[int, ...]) -> StratifiedMoE:
    torch.manual_seed(0)
    made = StratifiedMoE(8, 12, strata).double().eval()
    for gate in made.gates:
        torch.nn.init.normal_(cast(Gate, gate).weight)
    return made


def tokens(number: int = 40) -> Tensor:
    return torch.randn(number, 8, dtype=torch.double, generator=torch.Generator().manual_seed(1))


def visits(block: StratifiedMoE, selection: Selection, x: Tensor) -> Tensor:
    with routing_override(block, selection=selection):
        found: Tensor = block(x)[1].visits
    return found


class NothingFromTheHost(TorchDispatchMode):
    """Stands for the capture of a graph, which refuses copies from the host."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [one for one in tree_leaves((args, kwargs or {})) if isinstance(one, Tensor)]
        assert all(one.device.type == "meta" for one in given), func
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("selection", [BiasedStrata((2, 3), 0.5, TopK(2)), MostVisits((2, 3), 1, TopK(2))])
def test_a_dial_copies_nothing_to_the_device(selection: Selection) -> None:
    probs_TE = torch.empty(4, 5, device="meta")
    with NothingFromTheHost():
        assert selection(probs_TE, False).lead_T.shape == (4,)


@pytest.mark.parametrize("strata", STRATA)
def test_a_dial_at_rest_changes_nothing(strata: tuple[int, ...]) -> None:
    block, x = block_of(strata), tokens()
    for selection in (BiasedStrata(strata, 0.0, TopK(2)), MostVisits(strata, len(strata), TopK(2))):
        with routing_override(block, selection=selection):
            turned = block(x)[0]
        assert turned.equal(block(x)[0])


@pytest.mark.parametrize("strata", STRATA)
def test_a_large_bias_reaches_all_strata_or_the_last_alone(strata: tuple[int, ...]) -> None:
    block, x = block_of(strata), tokens()
    assert (visits(block, BiasedStrata(strata, EXTREME, TopK(2)), x) == len(strata)).all()
    assert (visits(block, BiasedStrata(strata, -EXTREME, TopK(2)), x) == 1).all()


@settings(max_examples=20, deadline=None)
@given(low=st.floats(-5, 5), more=st.floats(0, 5))
def test_the_expert_that_leads_the_first_gate_is_never_further_on_with_a_larger_bias(low: float, more: float) -> None:
    strata = (2, 2, 2)
    probs = block_of(strata).gates[0](tokens())
    near, far = (BiasedStrata(strata, bias, TopK(1))(probs, True).lead_T // 2 for bias in (low + more, low))
    assert (near <= far).all()


def test_the_bias_is_that_of_the_logits() -> None:
    strata, logits = (1, 2, 1), torch.tensor([[0.0, 1.0, 0.5, 2.0]], dtype=torch.double)
    choices = BiasedStrata(strata, 0.8, TopK(4))(logits.softmax(1), True)
    biased = logits - 0.8 * torch.tensor([0, 1, 1, 2])
    assert choices.experts_TK.tolist() == biased.argsort(dim=1, descending=True).tolist()
    prefix = BiasedStrata(strata, 0.8, Threshold(0.6))(logits.softmax(1), True)
    assert prefix.experts_TK.tolist() == Threshold(0.6)(biased.softmax(1), True).experts_TK.tolist()


@pytest.mark.parametrize("strata", STRATA)
def test_no_token_makes_more_than_the_most_visits(strata: tuple[int, ...]) -> None:
    block, x = block_of(strata), tokens()
    for most in range(1, len(strata) + 1):
        for inner in (TopK(2), Threshold(0.7)):
            found = visits(block, MostVisits(strata, most, inner), x)
            assert found.max() <= most and found.min() >= 1


def test_tokens_that_stay_within_the_most_visits_keep_their_way() -> None:
    strata = (2, 2)
    block, x = block_of(strata), tokens()
    own = block(x)[1].visits
    assert set(own.tolist()) == {1, 2}
    with routing_override(block, selection=MostVisits(strata, 2, TopK(2))):
        assert block(x)[1].visits.equal(own)


@pytest.mark.parametrize("bias", [-0.7, 1.3])
def test_a_token_is_independent_of_its_batch(bias: float) -> None:
    strata = (3, 2, 4)
    block, x = block_of(strata), tokens()
    for selection in (BiasedStrata(strata, bias, TopK(2)), MostVisits(strata, 2, TopK(2))):
        with routing_override(block, selection=selection):
            together = block(x)[0]
            alone = torch.cat([block(row[None])[0] for row in x])
        torch.testing.assert_close(together, alone)


def test_weights_are_those_of_the_unchanged_probabilities() -> None:
    strata = (2, 2)
    block, x = block_of(strata), tokens(1)
    probs = block.gates[0](block.norms[0](x))[0]
    with routing_override(block, selection=BiasedStrata(strata, -EXTREME, TopK(2))):
        y = block(x)[0]
    weights = probs[2:] / probs[2:].sum()
    outputs = torch.cat([block.experts.expert_output(expert, block.norms[0](x)) for expert in (2, 3)])
    torch.testing.assert_close(y[0], x[0] + weights @ outputs)


def test_the_bias_of_a_balanced_load_is_added_to_what_the_dial_makes_of_the_probabilities() -> None:
    strata, probs = (2, 2), torch.tensor([[0.4, 0.3, 0.2, 0.1]], dtype=torch.double)
    load = torch.tensor([0.0, 0.3, 0.0, 0.6], dtype=torch.double)
    dial = BiasedStrata(strata, 0.5, TopK(4))
    weighed = (probs.log() - 0.5 * torch.tensor([0, 0, 1, 1])).softmax(1)
    assert dial.takes_order
    found = dial(probs, True, probs + load).experts_TK
    assert found.tolist() == (weighed + load).argsort(dim=1, descending=True).tolist()
    last = MostVisits(strata, 1, TopK(1))
    assert last(probs, True, probs + load).lead_T.tolist() == [3] and last(probs, True).lead_T.tolist() == [2]
    assert not BiasedStrata(strata, 0.5, TopK(2, "gumbel")).takes_order


def test_a_gate_of_other_strata_is_refused() -> None:
    for selection in (BiasedStrata((2, 2), 1.0, TopK(2)), MostVisits((2, 2), 1, TopK(2))):
        with pytest.raises(ValueError, match="the gate sees 3 experts, which is no gate of strata"):
            selection.check(3, "the gate")


def test_more_choices_than_the_last_stratum_has_are_refused() -> None:
    with pytest.raises(ValueError, match="top_k=3 needs at least 3 experts"):
        MostVisits((4, 2), 1, TopK(3)).check(6, "the gate")
    with pytest.raises(ValueError, match="at least 1 visit, not 0"):
        MostVisits((4, 2), 0, TopK(1))


def test_gates_that_are_balanced_by_biases_keep_them() -> None:
    probs = torch.tensor([[0.5, 0.1, 0.3, 0.1], [0.1, 0.1, 0.2, 0.6]])
    order = probs + torch.tensor([0.0, 0.0, 0.3, -0.2])
    top = TopK(1)
    for dial in (BiasedStrata((2, 2), 0.0, top), MostVisits((2, 2), 2, top)):
        assert dial(probs, True, order).lead_T.tolist() == top(probs, True, order).lead_T.tolist() == [2, 2]
    assert MostVisits((2, 2), 1, top)(probs, True, order).lead_T.tolist() == [2, 2]
    assert MostVisits((2, 2), 1, top)(probs, True).lead_T.tolist() == [2, 3]
    assert BiasedStrata((2, 2), 50.0, top)(probs, True, order).lead_T.tolist() == [0, 0]  # a tie
    assert not MostVisits((2, 2), 1, TopK(2, "gumbel")).takes_order
