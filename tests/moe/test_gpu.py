"""On a GPU: grouped never makes the host wait, and computes what loop computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from smoe_mt.moe import ConditionalMoE, MoE, Stacking, StratifiedMoE

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]

BLOCKS: dict[str, Callable[..., Any]] = {
    "vanilla": lambda **o: MoE(64, 128, 8, **o),
    "switch": lambda **o: MoE(64, 128, 8, top_k=1, **o),
    "cmr": lambda **o: ConditionalMoE(64, 128, 8, **o),
    "stacking": lambda **o: Stacking(64, 128, (4, 4), **o),
    "stratified": lambda **o: StratifiedMoE(64, 128, (4, 4, 8), **o),
    "release": lambda **o: StratifiedMoE(64, 128, (4, 4, 8), variant="release", **o),
}


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("training", [True, False])
def test_the_host_never_waits(name: str, training: bool) -> None:
    block = BLOCKS[name](backend="grouped", dropout=0.1, eom_p=0.1).to("cuda", torch.bfloat16).train(training)
    x = torch.randn(4, 100, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    mask = torch.rand(4, 100, device="cuda") < 0.2
    block(x, mask)[0].sum().backward()  # what is set up once may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        y, routing = block(x, mask)
        (y.sum() + routing.balance_loss).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 2e-2), (torch.float16, 4e-3)])
def test_grouped_equals_loop(name: str, dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    loop, grouped = (BLOCKS[name](backend=backend, eom_p=0.0).to("cuda", dtype) for backend in ("loop", "grouped"))
    grouped.load_state_dict(loop.state_dict())
    for block in (loop, grouped):
        if isinstance(block, ConditionalMoE):
            block.gate_dropout = 0.0
    x = torch.randn(4, 100, 64, device="cuda", dtype=dtype)
    sides = []
    for block in (loop, grouped):
        y, routing = block(x)
        grads = torch.autograd.grad(y.float().sum() + routing.balance_loss, [*block.parameters()])
        sides.append(torch.cat([value.double().flatten() for value in (y, *grads)]))
    assert (sides[1] - sides[0]).norm() <= tolerance * sides[0].norm()
