"""MoEfication against its equation token by token in float64: slices of a dense FFN, three selectors, one output bias."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from smoe_mt.moe import SYSTEMS, BlockPlace, TopK, routing_override
from smoe_mt.moe.distributed.placement import ExpertRanks
from smoe_mt.moe.systems.moefied import MoefiedFFN, activity, chosen_of
from tests.moe.settings import settings_of

D, UNITS = 6, 24
SELECTORS = ("mlp", "similarity", "oracle")


def block_of(choose: float, select: str = "mlp", experts: int = 6, seed: int = 0, **options: Any) -> MoefiedFFN:
    torch.manual_seed(seed)
    cfg = settings_of("moefied", moefied_choose=choose, moefied_select=select, **options)
    made = SYSTEMS["moefied"].build(cfg, BlockPlace("encoder", 2, D, UNITS, (experts,))).double()
    assert isinstance(made, MoefiedFFN)
    for parameter in made.gate.parameters():
        nn.init.normal_(parameter)
    return made.eval()


def tokens(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, D, dtype=torch.double, generator=torch.Generator().manual_seed(seed))


def dense(block: MoefiedFFN, x: Tensor) -> Tensor:
    """The FFN that the block's experts are slices of."""
    bank = block.experts
    h = F.relu(F.linear(x, bank.w_in.flatten(0, 1), bank.b_in.flatten()))  # type: ignore[union-attr]
    return F.linear(h, bank.w_out.transpose(0, 1).flatten(1), bank.shared.b_out)


def slice_sums(block: Any, h: Tensor) -> list[float]:
    """Activation of each expert for a token."""
    bank = block.experts
    return [
        sum(max(0.0, (w @ h + b).item()) for w, b in zip(bank.w_in[e], bank.b_in[e])) for e in range(bank.num_experts)
    ]


def reference_scores(block: Any, select: str, h: Tensor) -> list[float]:
    gate, h = block.gate, h.detach()
    if select == "oracle":
        return slice_sums(block, h)
    if select == "similarity":
        return [(h @ c / h.norm() / c.norm()).item() for c in gate.centre]
    hidden = torch.stack([torch.tanh(w @ h / h.norm()) for w in gate.w_1])
    return [(w @ hidden).item() for w in gate.w_2]


def reference(block: Any, select: str, chosen: int, x: Tensor) -> Tensor:
    """One token and one expert after the other."""
    bank, rows = block.experts, []
    for h in x:
        scores = reference_scores(block, select, h)
        best = sorted(range(len(scores)), key=lambda e: -scores[e])[:chosen]
        y = bank.shared.b_out
        for e in best:
            y = y + bank.w_out[e] @ torch.relu(bank.w_in[e] @ h + bank.b_in[e])
        rows.append(y)
    return torch.stack(rows)


@given(
    seed=st.integers(0, 10_000),
    experts=st.sampled_from([1, 2, 3, 6, 12]),
    share=st.floats(0.05, 1),
    select=st.sampled_from(SELECTORS),
    count=st.integers(1, 4),
    training=st.booleans(),
)
@settings(max_examples=20, deadline=None)
def test_outputs_and_gradients_are_those_of_the_equation(
    seed: int, experts: int, share: float, select: str, count: int, training: bool
) -> None:
    block = block_of(share, select, experts, seed).train(training)
    x = tokens(count, seed=seed).requires_grad_()
    y, routing = block(x)
    want = reference(block, select, chosen_of(share, experts), x)
    torch.testing.assert_close(y, want)
    assert routing.units.tolist() == [chosen_of(share, experts) * UNITS // experts] * count
    inputs = [x, *(each for each in block.parameters() if each.requires_grad)]
    weight = torch.randn_like(y)
    for got, expected in zip(*(torch.autograd.grad((out * weight).sum(), inputs) for out in (y, want))):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("select", SELECTORS)
@pytest.mark.parametrize("experts", [1, 4, 24])
def test_all_experts_together_are_the_dense_ffn(select: str, experts: int) -> None:
    block, x = block_of(1.0, select, experts), tokens(5, 7)
    torch.testing.assert_close(block(x)[0], dense(block, x), rtol=0, atol=1e-12)
    block, x = block.float(), x.float()
    torch.testing.assert_close(block(x)[0], dense(block, x), rtol=1e-5, atol=1e-5)


def test_the_oracle_keeps_at_least_as_much_activation_as_any_other_choice() -> None:
    x = tokens(200)
    kept = {}
    for select in SELECTORS:
        block = block_of(0.34, select)
        sums_TE = activity(x, block.experts.w_in, block.experts.b_in)  # type: ignore[arg-type]
        chosen_TK = TopK(2)(block.gate(x), True).experts_TK
        kept[select] = sums_TE.gather(1, chosen_TK).sum(dim=1)
    assert (kept["oracle"] >= kept["mlp"] - 1e-12).all() and (kept["oracle"] >= kept["similarity"] - 1e-12).all()
    assert kept["oracle"].sum() > kept["mlp"].sum()


def test_the_oracle_tells_large_sums_apart() -> None:
    """In float32: of sums above some thousands, s / (1 + s) would be the same number."""
    block, x = block_of(0.34, "oracle").float(), tokens(300).float()
    block.experts.w_in.data *= 1e5
    block.experts.b_in.data *= 1e5  # type: ignore[union-attr]
    sums_TE = activity(x, block.experts.w_in, block.experts.b_in)  # type: ignore[arg-type]
    chosen_TK = TopK(2)(block.gate(x), True).experts_TK
    torch.testing.assert_close(sums_TE.gather(1, chosen_TK), sums_TE.sort(dim=1, descending=True).values[:, :2])


def test_the_error_falls_to_0_as_all_are_chosen() -> None:
    block, x = block_of(0.2, "oracle", experts=12), tokens(100)
    errors = []
    for chosen in (1, 3, 6, 12):
        with routing_override(block, selection=TopK(chosen)):
            errors.append((block(x)[0] - dense(block, x)).square().mean().item())
    assert errors == sorted(errors, reverse=True) and errors[-1] < 1e-24 and errors[-2] > 1e-6


def test_an_override_chooses_as_a_model_of_that_share() -> None:
    block, x = block_of(0.34), tokens(9)
    want = block_of(0.67)(x)[0]
    with routing_override(block, selection=TopK(4)):
        assert block(x)[0].equal(want)


@pytest.mark.parametrize("capacity_factor", [None, 0.0])
def test_nothing_is_dropped_in_training(capacity_factor: float | None) -> None:
    block = block_of(0.34, capacity_factor=capacity_factor).train()
    (load,) = block(tokens(50))[1].load
    assert load.asked.equal(load.served) and load.asked.sum() == 100


def test_no_training_changes_a_selector() -> None:
    for select in SELECTORS:
        assert not any(each.requires_grad for each in block_of(0.5, select).gate.parameters())


def test_scores_are_probabilities_in_float32_at_least() -> None:
    x = tokens(20)
    for select in SELECTORS:
        block = block_of(0.5, select)
        assert block.gate(x).min() >= 0 and block.gate(x).max() <= 1
        want = block.float().gate(x.float())
        with torch.autocast("cpu", torch.bfloat16):
            assert block.gate(x.float()).equal(want)


@pytest.mark.parametrize(
    ("share", "experts", "chosen"), [(0.2, 64, 13), (0.01, 8, 1), (1.0, 8, 8), (0.25, 8, 2), (0.5, 3, 2)]
)
def test_how_many_experts_a_share_is(share: float, experts: int, chosen: int) -> None:
    assert chosen_of(share, experts) == chosen
    assert SYSTEMS["moefied"].rows_per_token(settings_of("moefied", moefied_choose=share), (experts,)) == (chosen,)


def test_another_activation_is_refused() -> None:
    with pytest.raises(ValueError, match="activation_fn=gelu: moefied needs relu"):
        block_of(0.5, activation_fn="gelu")


def test_slices_do_not_start_as_whole_ffns() -> None:
    with pytest.raises(ValueError, match="checkpoint moefy"):
        block_of(0.5).experts.from_dense(*(torch.zeros(1),) * 4)


def test_the_oracle_cannot_be_spread_over_ranks() -> None:
    unused: Any = ExpertRanks
    with pytest.raises(ValueError, match="oracle needs all experts on its rank"):
        block_of(0.5, "oracle").experts.keep((0, 1), unused)
