"""The release variant against vectors that the paper's released code computed (float64, CPU, Gumbel noise off)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from smoe_mt.moe import ConditionalMoE, MoE, Routing, StratifiedMoE
from smoe_mt.moe.experts import Experts

GOLDEN = Path(__file__).parent / "golden"
CASES = sorted(path.stem for path in GOLDEN.glob("*.json"))


def tensor(values: Any) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.double)


def load_experts(experts: Experts, weights: dict[str, Any]) -> None:
    names = {"w_in": "fc1.weight", "b_in": "fc1.bias", "w_out": "fc2.weight", "b_out": "fc2.bias"}
    experts.load_state_dict({ours: tensor(weights[theirs]) for ours, theirs in names.items()})


def build(case: dict[str, Any]) -> tuple[Any, torch.nn.LayerNorm | None]:
    """The block with the case's weights, and the norm in front of it where the block has none."""
    config, weights = case["config"], case["weights"]
    norms = [torch.nn.LayerNorm(8).double() for _ in weights["norms"]]
    for norm, values in zip(norms, weights["norms"]):
        norm.load_state_dict({name: tensor(values[name]) for name in ("weight", "bias")})
    if config["kind"] == "smoe":
        block: Any = StratifiedMoE(8, 16, config["strata"], top_k=config["top_k"], variant="release").double()
        load_experts(block.experts, weights["experts"])
        for gate, values in zip(block.gates, weights["gates"], strict=True):
            gate.weight.data = tensor(values)
        block.norms = torch.nn.ModuleList(norms)
        return block, None
    factor = 1.0 if config["top_k"] == 1 else 2.0
    options = {"top_k": config["top_k"], "capacity_factor": factor, "variant": "release"}
    if config["kind"] == "cmr":
        layer: Any = ConditionalMoE(8, 16, config["num_experts"], gate_dropout=0.0, **options).double()
        load_conditional(layer, weights)
        moe = layer.moe
    else:
        layer = moe = MoE(8, 16, config["num_experts"], eom_p=config.get("eom_p", 0.0), **options).double()
    load_experts(moe.experts, weights["experts"])
    moe.gate.weight.data = tensor(weights["gates"][0])
    if "eom_keep" in case["expected"]:
        keep = tensor(case["expected"]["eom_keep"]).clamp(min=0)
        moe.mask.draw = lambda weights_TK: keep
    return layer, norms[0]


def load_conditional(layer: ConditionalMoE, weights: dict[str, Any]) -> None:
    for name, parameter in (("fc1", layer.fc1), ("fc2", layer.fc2)):
        for kind in ("weight", "bias"):
            getattr(parameter, kind).data = tensor(weights["shared_ffn"][f"{name}.{kind}"])
    layer.mix.weight.data = tensor(weights["cmr_gate"]["weight"]).view(1, -1)
    layer.mix.bias.data = tensor(weights["cmr_gate"]["bias"]).view(1)


def run(name: str) -> tuple[dict[str, Any], torch.Tensor, torch.Tensor, Routing]:
    """The case, its input, the FFN half's output (norm and residual included) and its routing."""
    case = json.loads((GOLDEN / f"{name}.json").read_text())
    block, norm = build(case)
    block.train(case["config"]["training"])
    x = tensor(case["x"]).requires_grad_()
    y, routing = block(x if norm is None else norm(x))
    return case, x, y if norm is None else x + y, routing


@pytest.mark.parametrize("name", CASES)
def test_equals_the_released_code(name: str) -> None:
    case, x, y, routing = run(name)
    want = case["expected"]
    (grad_x,) = torch.autograd.grad((y * tensor(case["w"])).sum(), x, retain_graph=True)
    (grad_balance,) = torch.autograd.grad(routing.balance_loss, x)
    for got, expected in (
        (y, want["y"]),
        (grad_x, want["grad_x"]),
        (routing.balance_loss, want["balance_loss"]),
        (grad_balance, want["grad_x_balance"]),
    ):
        torch.testing.assert_close(got, tensor(expected), rtol=1e-9, atol=1e-9)
    assert routing.visits.tolist() == want.get("visits", [[1] * 7] * 2)
    visited = [load for load in routing.load if load.asked.any()]
    for load, gate in zip(visited, want["gates"], strict=True):
        dropped = len(gate["dropped"])
        assert (load.asked - load.served).sum().item() == dropped


def test_the_budget_loss_of_conditional_routing_is_the_released_codes() -> None:
    case, x, _, routing = run("cmr_train")
    want = case["expected"]["cmr"]
    loss = (routing.sums["gate"] / routing.visits.sum() - want["budget_p"]).abs()
    (grad_x,) = torch.autograd.grad(loss, x)
    for got, name in ((routing.sums["gate"], "gate_sum"), (loss, "budget_loss"), (grad_x, "grad_x_budget")):
        torch.testing.assert_close(got, tensor(want[name]), rtol=1e-9, atol=1e-9)
