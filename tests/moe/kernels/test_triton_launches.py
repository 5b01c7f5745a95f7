"""How many kernels a gate launches, counted under the interpreter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from smoe_mt.moe import MoE, StratifiedMoE
from smoe_mt.moe.kernels.available import interpreted
from smoe_mt.moe.routers.base import routers_of
from smoe_mt.moe.routers.bias import LoadBias

pytest.importorskip("triton", reason="triton is not installed")
pytestmark = pytest.mark.skipif(not interpreted(), reason="kernels run on the GPU here: see the tests marked gpu")


def with_z(block: nn.Module) -> nn.Module:
    """With z-losses."""
    for router in routers_of(block):
        router.request_losses(("z",))
    return block


MOST_FORWARD, MOST_BACKWARD = 12, 20
BLOCKS = {
    "plain": (1, lambda: MoE(8, 8, 3, backend="triton")),
    "strata": (2, lambda: StratifiedMoE(8, 8, (1, 2), backend="triton")),
    "release": (2, lambda: StratifiedMoE(8, 8, (1, 2), variant="release", dropout=0.1, backend="triton")),
    "biases and z-loss": (
        2,
        lambda: with_z(StratifiedMoE(8, 8, (1, 2), gate_bias=True, load_bias=LoadBias(0.1), backend="triton")),
    ),
    "drawing": (
        2,
        lambda: StratifiedMoE(8, 8, (1, 2), dropout=0.1, eom_p=0.1, second_choice="gumbel", backend="triton"),
    ),
}


@pytest.mark.parametrize("kind", BLOCKS)
@pytest.mark.parametrize(("norm_goes_along", "turns"), [(True, 1), (False, 1), (False, 2)])
def test_a_gate_launches_few_kernels(
    kind: str, norm_goes_along: bool, turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from smoe_mt.moe.kernels.triton_block.launching import Launcher

    sites: list[str] = []
    launch = Launcher.__call__

    def counted(self: Launcher, site: str, *args: Any, **constants: Any) -> None:
        sites.append(site)
        launch(self, site, *args, **constants)

    monkeypatch.setattr(Launcher, "__call__", counted)
    tiles = "smoe_mt.moe.kernels.triton_block.tiles"
    monkeypatch.setattr(f"{tiles}.norm_goes_along", lambda *_: norm_goes_along)
    monkeypatch.setattr(f"{tiles}.hidden_turns", lambda *_: turns)
    torch.manual_seed(0)
    gates, make = BLOCKS[kind]
    block: nn.Module = make()
    y, routing = block(torch.randn(5, 8, requires_grad=True), torch.zeros(5, dtype=torch.bool))
    forward = len(sites)
    (y.sum() + sum(routing.losses.values())).backward()
    assert forward == gates * (6 + 2 * (turns - 1)) <= gates * MOST_FORWARD
    more = gates * 5 * (turns - 1) + gates - 1  # those of a turn; the norm again, of all gates but the last
    assert gates * 7 <= len(sites) - forward - more <= gates * 9
    assert len(sites) - forward <= gates * MOST_BACKWARD
