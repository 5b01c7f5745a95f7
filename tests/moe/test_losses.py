"""The z-loss of gates: its value, its gradient, and that it costs nothing where nobody asks for it."""

from __future__ import annotations

import math
import re
from typing import cast

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from smoe_mt.moe import Gate, Router, StratifiedMoE, TopK, Weighting
from smoe_mt.moe.kernels.fused import kernel_name
from smoe_mt.moe.losses import z_loss
from tests.moe.test_conformance import D, every_system, make, routers, tokens


def by_hand(x: Tensor, weight: Tensor) -> float:
    logits = (x @ weight.T).tolist()
    return sum(math.log(sum(math.exp(each) for each in row)) ** 2 for row in logits) / len(logits)


@every_system
def test_it_is_the_mean_over_the_gates_of_the_mean_squared_log_of_the_sum(name: str) -> None:
    block, x = make(name), tokens(4, 5)
    if not all(isinstance(router, Gate) for router in routers(block)):
        pytest.skip("its router is no softmax gate")
    inputs: dict[Router, Tensor] = {}
    for router in routers(block):
        router.request_losses(("z",))
        router.register_forward_hook(lambda router, args, _: inputs.update({router: args[0].detach()}))
    loss = block(x)[1].losses["z"]
    gates = [cast(Gate, router) for router in routers(block)]
    want = [by_hand(inputs[gate], gate.weight.detach()) if gate in inputs else 0.0 for gate in gates]
    assert float(loss.detach()) == pytest.approx(sum(want) / len(want))


def test_its_gradient_is_that_of_finite_differences() -> None:
    logits = torch.randn(6, 4, dtype=torch.double, requires_grad=True)
    active = torch.tensor([True, True, False, True, False, True])
    assert torch.autograd.gradcheck(z_loss, (logits,)) and torch.autograd.gradcheck(z_loss, (logits, active))
    torch.testing.assert_close(z_loss(logits, active), z_loss(logits[active]))
    assert z_loss(logits, torch.zeros(6, dtype=torch.bool)) == 0


def test_it_makes_logits_smaller() -> None:
    block, x = make("vanilla"), tokens(50)
    gate = cast(Gate, routers(block)[0])
    gate.request_losses(("z",))
    sizes = []
    for _ in range(30):
        loss = block(x)[1].losses["z"]
        (grad,) = torch.autograd.grad(loss, [gate.weight])
        gate.weight.data -= 0.05 * grad
        sizes.append(float(loss.detach()))
    assert sizes[-1] < 0.7 * sizes[0]


@pytest.mark.parametrize("name", ["vanilla", "stratified"])
def test_padding_counts_for_nothing(name: str) -> None:
    block, x = make(name), tokens(2, 5)
    for router in routers(block):
        router.request_losses(("z",))
    padded = torch.cat([x, torch.full((2, 3, D), 1e6, dtype=torch.double)], dim=1)
    mask = torch.zeros(2, 8, dtype=torch.bool)
    mask[:, 5:] = True
    torch.testing.assert_close(block(padded, mask)[1].losses["z"], block(x)[1].losses["z"])
    assert block(x, torch.ones(2, 5, dtype=torch.bool))[1].losses["z"] == 0


def test_nobody_pays_for_it_who_does_not_ask() -> None:
    block, x = make("stratified"), tokens(20)
    flops = []
    for names in ((), ("z",), ()):
        for router in routers(block):
            router.request_losses(names)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            losses = block(x)[1].losses
        flops.append(counter.get_total_flops())
        assert losses.keys() == {"balance", *names}
    assert flops[0] == flops[2] < flops[1]


def test_a_router_that_has_none_says_so() -> None:
    router = Router(4, TopK(1), Weighting.RAW, "the gate")
    with pytest.raises(ValueError, match="the gate: Router has no loss 'z'"):
        router.request_losses(("z",))


def test_kernels_for_whole_blocks_compute_it() -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    torch.manual_seed(0)
    block = StratifiedMoE(D, 16, (2, 2), backend="triton")
    for router in routers(block):
        router.request_losses(("z",))
    assert kernel_name(block.parts, torch.randn(3, D), "triton") == "triton"


@every_system
def test_every_system_has_a_z_loss_or_says_that_it_has_none(name: str) -> None:
    block = make(name)
    try:
        for router in routers(block):
            router.request_losses(("z",))
    except ValueError as error:
        assert re.search("has no loss 'z'", str(error))
        assert name in ("dynmoe", "stratified_dynmoe", "moefied")
        return
    assert float(block(tokens(4, 3))[1].losses["z"].detach()) > 0
