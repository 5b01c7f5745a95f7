"""PESC against its equations in float64; what it is at the start; what reaches its gates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from smoe_mt.moe import SYSTEMS, BlockPlace, MoE, StratifiedMoE
from smoe_mt.moe.kernels import threads
from smoe_mt.moe.system import STRATA
from tests.moe.settings import padded_batch, settings_of

D, UNITS = 8, 12
BOTH = ("pesc", "stratified_pesc")
KINDS = [("pesc", "once"), ("stratified_pesc", "once"), ("stratified_pesc", "visit")]


def layer(name: str, seed: int = 0, experts: tuple[int, ...] | None = None, **options: Any) -> Any:
    torch.manual_seed(seed)
    cfg = settings_of(name, **{"capacity_factor": 0.0, "pesc_width": 3, "pesc_dropout": 0.0, **options})
    groups = experts or ((2, 3) if SYSTEMS[name].experts_setting == STRATA else (4,))
    block: Any = SYSTEMS[name].build(cfg, BlockPlace("encoder", 2, D, UNITS, groups)).double()
    nn.init.normal_(block.experts.w_out)
    for router in [block.gate] if name == "pesc" else block.gates:
        nn.init.normal_(router.weight)
    return block


def f(block: Any, h: Tensor) -> Tensor:
    y: Tensor = block.ffn.fc2.weight @ torch.relu(block.ffn.fc1.weight @ h + block.ffn.fc1.bias) + block.ffn.fc2.bias
    return y


def adapter(block: Any, e: int, u: Tensor) -> Tensor:
    y: Tensor = block.experts.w_out[e] @ F.gelu(block.experts.w_in[e] @ u)
    return y


def mixed(block: Any, weight: Tensor, h: Tensor, u: Tensor, first: int) -> tuple[Tensor, int]:
    """Of the two best adapters, weighed by the softmax over their two logits; and the best one."""
    logits, experts = (weight @ h).topk(2)
    weights = torch.softmax(logits, dim=0)
    return sum(w * adapter(block, first + int(e), u) for w, e in zip(weights, experts)), int(experts[0])


def reference(block: Any, token: Tensor) -> Tensor:
    """One token, nothing dropped."""
    if not isinstance(block, StratifiedMoE):
        u = f(block, token)
        y, _ = mixed(block, block.gate.weight, token, u, 0)
        return u + y
    i, x, u = 0, token, token
    ends = [sum(block.strata[: j + 1]) for j in range(len(block.strata))]
    while i < len(block.strata):
        norm: Any = block.norms[i]
        h = F.layer_norm(x, x.shape, norm.weight, norm.bias)
        added = i == 0 or block.each_visit
        u = f(block, h) if added else u
        first = ends[i] - block.strata[i]
        gate: Any = block.gates[i]
        y, best = mixed(block, gate.weight, h, u, first)
        x = x + y + (u if added else 0)
        i = next(j for j, end in enumerate(ends) if first + best < end) + 1
    return x


@pytest.mark.parametrize(("name", "ffn"), KINDS)
def test_outputs_and_gradients_are_those_of_the_equations(name: str, ffn: str) -> None:
    block = layer(name, pesc_ffn=ffn)
    x, mask = padded_batch(D)
    x.requires_grad_()
    y, _ = block(x, mask)
    rows = [reference(block, token) for token in x.reshape(-1, D)]
    elsewhere = x if block.has_residual else torch.zeros_like(x)
    want = torch.where(mask[..., None], elsewhere, torch.stack(rows).view_as(x))
    torch.testing.assert_close(y, want)
    inputs = [x, *block.parameters()]
    for got, expected in zip(*(torch.autograd.grad(out.sin().sum(), inputs) for out in (y, want))):
        torch.testing.assert_close(got, expected, rtol=1e-7, atol=1e-9)


def test_it_computes_what_the_released_code_computed() -> None:
    case = json.loads((Path(__file__).parent / "pesc_release.json").read_text())
    given = {name: torch.tensor(case[name], dtype=torch.double) for name in ("gate", "w_in", "w_out", "x", "y")}
    cfg = settings_of("pesc", pesc_width=given["w_in"].size(1))
    place = BlockPlace("encoder", 2, given["x"].size(-1), len(case["ffn"]["fc1.bias"]), (given["gate"].size(0),))
    block: Any = SYSTEMS["pesc"].build(cfg, place).double().eval()
    own = {"gate.weight": given["gate"], "experts.w_in": given["w_in"], "experts.w_out": given["w_out"]}
    ffn = {f"ffn.{name}": torch.tensor(values, dtype=torch.double) for name, values in case["ffn"].items()}
    block.load_state_dict({**own, **ffn})
    y, _ = block(given["x"])
    torch.testing.assert_close(y, given["y"])
    y.sin().sum().backward()
    for parameter, name in ((block.gate.weight, "grad_gate"), (block.experts.w_in, "grad_w_in")):
        torch.testing.assert_close(parameter.grad, torch.tensor(case[name], dtype=torch.double))


@pytest.mark.parametrize("name", BOTH)
def test_at_the_start_it_is_the_ffn_to_the_bit(name: str) -> None:
    block = layer(name)
    nn.init.zeros_(block.experts.w_out)
    x, _ = padded_batch(D)
    rows = x.reshape(-1, D)
    want = rows + block.ffn(block.norms[0](rows)) if block.has_residual else block.ffn(rows)
    assert block(x)[0].equal(want.view_as(x))


def test_an_ffn_at_every_visit_is_no_longer_the_dense_layer() -> None:
    block = layer("stratified_pesc", pesc_ffn="visit")
    nn.init.zeros_(block.experts.w_out)
    x, _ = padded_batch(D)
    y, routing = block(x)
    want = x + block.ffn(block.norms[0](x))
    same = torch.isclose(y, want).all(dim=-1)
    assert same.equal(routing.visits == 1) and not same.all()


def test_one_expert_is_the_ffn_and_its_adapter() -> None:
    block = layer("pesc", experts=(1,), top_k=1, pesc_weights="raw")
    x, _ = padded_batch(D)
    want = [u + adapter(block, 0, u) for u in (f(block, token) for token in x.reshape(-1, D))]
    torch.testing.assert_close(block(x)[0], torch.stack(want).view_as(x))


@pytest.mark.parametrize(("name", "ffn"), KINDS)
def test_a_dropped_slot_takes_away_its_adapter_and_never_the_ffn(name: str, ffn: str) -> None:
    """With room for nobody but a few, a token that lost all of its slots still has all of f."""
    block = layer(name, capacity_factor=1e-6, pesc_ffn=ffn).train()
    nn.init.constant_(block.experts.w_out, 0.5)
    x, _ = padded_batch(D)
    y, routing = block(x)
    served = sum(int(load.served.sum()) for load in routing.load)
    assert served < sum(int(load.asked.sum()) for load in routing.load)
    without = layer(name, pesc_ffn=ffn).eval()
    without.load_state_dict(block.state_dict())
    nn.init.zeros_(without.experts.w_out)
    same = torch.isclose(y, without(x)[0]).all(dim=-1)
    first_visits = routing.visits == 1
    assert same[first_visits].sum() >= first_visits.sum() - served and same.any()


def test_with_one_choice_only_raw_weights_teach_the_gate() -> None:
    with pytest.raises(
        ValueError, match="top_k=1 with pesc_weights=renormalised .* choose pesc_weights=raw, or top_k=2"
    ):
        layer("pesc", top_k=1)
    block = layer("pesc", top_k=1, pesc_weights="raw")
    block(padded_batch(D)[0])[0].sin().sum().backward()
    assert block.gate.weight.grad.abs().max() > 1e-6


@pytest.mark.parametrize("name", BOTH)
def test_gates_read_the_token_and_adapters_the_ffns_output(name: str) -> None:
    """So another f changes no choice at the first gate."""
    block, other = layer(name), layer(name)
    nn.init.normal_(other.ffn.fc2.weight)
    x, _ = padded_batch(D)
    loads = [each(x)[1].load[0].asked for each in (block, other)]
    assert loads[0].equal(loads[1])


def test_what_adapters_read_is_dropped_out_in_training_and_the_ffn_is_not() -> None:
    block = layer("pesc", pesc_dropout=0.5).train()
    x, _ = padded_batch(D)
    torch.manual_seed(0)
    assert not block(x)[0].equal(block(x)[0])
    nn.init.zeros_(block.experts.w_out)
    assert block(x)[0].equal(block.ffn(x.reshape(-1, D)).view_as(x))


@pytest.mark.parametrize(("name", "ffn"), KINDS)
def test_flops_are_those_counted(name: str, ffn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "free_threads", lambda _device: 1)  # products of other threads are not counted
    block, count = layer(name, pesc_ffn=ffn).eval(), 30
    x = torch.randn(count, D, dtype=torch.double)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        _, routing = block(x)
    gates = sum(2 * D * load.asked.numel() * int(load.tokens.sum()) for load in routing.load)
    rows = sum(int(load.asked.sum()) for load in routing.load) / count
    cfg = settings_of(name, pesc_ffn=ffn)
    ffns = SYSTEMS[name].dense_ffns_of(cfg, BlockPlace("encoder", 2, D, UNITS, (5,)), rows)
    want = count * (ffns * 4 * D * UNITS + rows * 4 * D * 3)
    assert counter.get_total_flops() - gates == pytest.approx(want)


def test_the_width_follows_the_embedding_unless_it_is_given() -> None:
    assert layer("pesc", pesc_width=0).experts.hidden_sizes == (1,) * 4
    assert layer("pesc", pesc_width=5).experts.hidden_sizes == (5,) * 4
    large = SYSTEMS["pesc"].build(settings_of("pesc"), BlockPlace("encoder", 2, 64, 8, (2,)))
    assert isinstance(large, MoE) and large.experts.hidden_sizes == (8, 8)


def test_the_release_variant_has_its_dropout_on_the_ffn_and_on_the_adapters() -> None:
    block = layer("pesc", variant="release", dropout=0.5).train()
    nn.init.zeros_(block.experts.w_out)
    torch.manual_seed(0)
    x, _ = padded_batch(D)
    kept = block(x)[0] / block.ffn(x)
    assert set(kept.round(decimals=6).unique().tolist()) == {0.0, 2.0}


@pytest.mark.parametrize("name", BOTH)
def test_grouped_products_compute_the_same(name: str) -> None:
    cfg = settings_of(name, capacity_factor=0.0, pesc_width=4)
    place = BlockPlace("encoder", 2, D, UNITS, (2, 3) if name != "pesc" else (4,))
    made = []
    for backend in ("loop", "grouped"):
        torch.manual_seed(0)
        cfg.moe_backend = backend
        block: Any = SYSTEMS[name].build(cfg, place).eval()
        nn.init.normal_(block.experts.w_out)
        made.append(block)
    x, mask = padded_batch(D)
    (y, routing), (y_grouped, routing_grouped) = (block(x.float(), mask) for block in made)
    torch.testing.assert_close(y_grouped, y)
    assert routing_grouped.visits.equal(routing.visits)
