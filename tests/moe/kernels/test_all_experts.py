"""All experts for a few tokens: chosen by its rule alone, the same outputs as the loop over experts, and nothing read back."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from smoe_mt.models import SMoETransformerConfig
from smoe_mt.moe import SYSTEMS, BlockPlace, MoE, RankK, StratifiedMoE, Threshold, TopK, Weighting, routing_override
from smoe_mt.moe.block import outputs_only
from smoe_mt.moe.experts import Experts
from smoe_mt.moe.experts.ffn import FFNBank
from smoe_mt.moe.kernels import all_experts
from smoe_mt.moe.kernels.all_experts import ALL_EXPERTS, takes_all
from smoe_mt.moe.kernels.fused import kernel_name
from smoe_mt.read_backs import ReadBacks

D, F, TOKENS = 16, 24, 7


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it can be, on a CPU."""
    monkeypatch.setattr(all_experts, "DEVICES", ("cpu",))
    monkeypatch.setattr(all_experts, "MOST_EXPERTS_PER_CHOICE", 1000)


def both(block: Any, x: torch.Tensor, mask: torch.Tensor | None = None) -> tuple[Any, Any]:
    """Outputs alone, which all experts compute, and a pass that asks for its routing, which the loop does."""
    block.eval()
    with torch.inference_mode():
        with outputs_only():
            found = block(x, mask)
        return found, block(x, mask)


def assert_alike(found: Any, wanted: Any) -> None:
    torch.testing.assert_close(found[0], wanted[0], rtol=1e-5, atol=1e-6)
    assert found[1].visits.equal(wanted[1].visits)
    assert torch.as_tensor(found[1].units).equal(torch.as_tensor(wanted[1].units))


def built(system: str, **settings: Any) -> Any:
    torch.manual_seed(0)
    strata = (2, 3, 2) if SYSTEMS[system].nested else (3, 3) if system == "stacking" else (6,)
    return SYSTEMS[system].build(SMoETransformerConfig(moe=system, **settings), BlockPlace("decoder", 1, D, F, strata))


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system(system: str, padded: bool) -> None:
    block, x = built(system), torch.randn(1, TOKENS, D)
    mask = torch.arange(TOKENS)[None] >= 5 if padded else None
    assert_alike(*both(block, x, mask))


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("system", SYSTEMS)
def test_nothing_is_read_back(system: str) -> None:
    """In blocks of FFNs of one size."""
    block, x = built(system).eval(), torch.randn(TOKENS, 1, D)
    banks = [module for module in block.modules() if isinstance(module, FFNBank)]
    with torch.inference_mode(), outputs_only(), ReadBacks("cpu") as read:
        block(x)
    assert not read.found or not banks, read.found


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("settings", [{"variant": "release"}, {"activation_fn": "gelu"}, {"shared_experts": 1}])
def test_every_kind_of_block(settings: dict[str, Any]) -> None:
    assert_alike(*both(built("stratified", **settings), torch.randn(TOKENS, D)))


CHOICES = [(TopK(1), Weighting.RAW), (RankK(2), Weighting.UNIFORM), (TopK(5), None), (Threshold(0.3, 3), None)]


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize(("selection", "weighting"), CHOICES, ids=str)
def test_another_routing(selection: Any, weighting: Weighting | None) -> None:
    torch.manual_seed(0)
    block: Any = MoE(D, F, 6).eval()
    x = torch.randn(TOKENS, D)
    with torch.no_grad():
        block.gate.weight.mul_(5)
    with routing_override(block, selection=selection, weighting=weighting):
        assert_alike(*both(block, x))


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 2e-2), (torch.float16, 2e-3), (torch.float64, 1e-9)])
def test_precisions(dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    found, wanted = both(StratifiedMoE(D, F, (2, 3)).to(dtype), torch.randn(TOKENS, D, dtype=dtype))
    assert found[0].dtype is dtype
    assert (found[0] - wanted[0]).norm() <= tolerance * wanted[0].norm()


@pytest.mark.usefixtures("always")
def test_a_token_that_is_left_out_harms_nothing() -> None:
    torch.manual_seed(0)
    block, x = StratifiedMoE(D, F, (2, 3)), torch.randn(1, TOKENS, D)
    mask = torch.arange(TOKENS)[None] >= 5
    clean, wild = (both(block, x.masked_fill(mask[..., None], value), mask)[0][0] for value in (0.0, torch.inf))
    assert clean[:, :5].equal(wild[:, :5])


# --- when it is chosen ---


@pytest.mark.parametrize(
    ("tokens", "experts", "choices", "taken"),
    [(5, 8, 2, True), (5, 40, 2, True), (5, 41, 2, False), (5, 21, 1, False), (64, 8, 2, True), (65, 8, 2, False)],
)
def test_for_few_tokens_that_reach_most_experts(
    tokens: int, experts: int, choices: int, taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(all_experts, "DEVICES", ("cpu",))
    monkeypatch.setattr(all_experts, "MOST_TOKENS", 64)
    monkeypatch.setattr(all_experts, "MOST_EXPERTS_PER_CHOICE", 4)
    bank, x = Experts(experts, D, F).eval(), torch.randn(tokens, 1, D)
    with outputs_only():
        assert takes_all(bank, x, choices) == taken
    assert not takes_all(bank, x, choices), "where the routing is asked for"


@pytest.mark.parametrize(
    ("most", "beside_triton", "taken"), [(9, 6, False), (9, 7, True), (6, 7, False), (9, 0, False)]
)
def test_beside_the_triton_kernels_another_number_counts(
    most: int, beside_triton: int, taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(all_experts, "DEVICES", ("cpu",))
    monkeypatch.setattr(all_experts, "MOST_TOKENS", most)
    monkeypatch.setattr(all_experts, "MOST_TOKENS_BESIDE_TRITON", beside_triton)
    bank, x = Experts(6, D, F).eval(), torch.randn(TOKENS, D)
    with outputs_only():
        assert takes_all(bank, x, 2, fused=True) == taken


@pytest.mark.parametrize("backend", ["auto", "loop", "grouped"])
def test_a_backend_asked_for_by_name_computes(backend: str, always: None) -> None:
    block, x = MoE(D, F, 6, backend=backend).eval(), torch.randn(TOKENS, D)
    with outputs_only():
        assert kernel_name(block.parts, x, backend) == (ALL_EXPERTS if backend == "auto" else backend)


def test_on_a_cpu_it_is_never_chosen() -> None:
    block, x = MoE(D, F, 6).eval(), torch.randn(TOKENS, D)
    with outputs_only():
        assert kernel_name(block.parts, x, "auto") == "loop"
