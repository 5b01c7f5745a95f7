"""Which blocks the Triton kernels compute, where they fall back, and what they say of it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from smoe_mt.errors import UserError
from smoe_mt.moe import SYSTEMS, BlockPlace, MoE, RankK, StratifiedMoE, TopK, routing_override
from smoe_mt.moe.kernels import available, fused
from smoe_mt.moe.kernels.fused import fuses, kernel_name
from smoe_mt.moe.routers.base import Weighting
from smoe_mt.moe.routers.bias import LoadBias
from smoe_mt.moe.system import STRATA
from tests.moe.settings import settings_of

D, F = 16, 24
#: Systems whose blocks the kernels compute from end to end; all others have a line that says why not (docs/cost.md).
FUSED = {"vanilla", "switch", "eom", "cmr", "stacking", "stratified", "mpoe", "mhmoe", "stratified_mhmoe"}


@pytest.fixture(autouse=True)
def nothing_said_before() -> Iterator[None]:
    fused._say_once.cache_clear()
    yield
    fused._say_once.cache_clear()


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(available, "installed", lambda: True)


def on_gpu(dtype: torch.dtype = torch.bfloat16) -> Any:
    """What is asked of an input, of one on a GPU."""
    return SimpleNamespace(device=torch.device("cuda", 0), dtype=dtype, numel=lambda: 64)


def card(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]) -> None:
    """A GPU of this compute capability."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "Old Card")


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("backend", ["auto", "triton"])
@pytest.mark.parametrize(("capability", "fused_there"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_a_card_that_is_too_old_falls_back_and_says_so_once(
    backend: str,
    capability: tuple[int, int],
    fused_there: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    card(monkeypatch, capability)
    block = MoE(D, F, 3, backend=backend)
    with caplog.at_level(logging.WARNING):
        found = [fuses(block.parts, on_gpu(), backend) for _ in range(2)]
    assert found == [fused_there] * 2
    line = f"backend {backend}: Old Card is too old: compute capability 8.0 is needed; computing with another backend"
    assert caplog.messages == ([] if fused_there else [line])


@pytest.mark.parametrize("backend", ["auto", "triton"])
def test_without_triton_it_falls_back_and_says_so_once(
    backend: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(available, "installed", lambda: False)
    card(monkeypatch, (9, 0))
    block = MoE(D, F, 3, backend=backend)
    with caplog.at_level(logging.WARNING):
        assert not any(fuses(block.parts, on_gpu(), backend) for _ in range(2))
    assert caplog.messages == [f"backend {backend}: triton is not installed; computing with another backend"]


@pytest.mark.usefixtures("installed")
def test_by_name_on_a_cpu_it_falls_back_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(available, "interpreted", lambda: False)
    block = MoE(D, F, 3, backend="triton")
    with caplog.at_level(logging.WARNING):
        y, _ = block(torch.randn(4, D))
    assert y.isfinite().all()
    assert caplog.messages == ["backend triton: the model is on cpu, not on a GPU; computing with another backend"]


def test_auto_says_nothing_on_a_cpu(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        MoE(D, F, 3)(torch.randn(4, D))
    assert caplog.messages == []


@pytest.mark.parametrize(("dim", "ffn", "experts"), [(12, 24, 3), (16, 20, 3), (16, 24, 130)])
def test_sizes_that_do_not_fit_are_refused_by_name_as_the_block_is_built(dim: int, ffn: int, experts: int) -> None:
    words = (
        f"a gate sees {experts} experts"
        if experts > 128
        else f"embed_dim={dim} and ffn_dim={ffn} must be multiples of 8"
    )
    for build in (
        lambda: MoE(dim, ffn, experts, backend="triton"),
        lambda: StratifiedMoE(dim, ffn, (experts - 2, 2), backend="triton"),
    ):
        with pytest.raises(
            UserError, match=f"backend triton does not work here: {words}.*; choose auto, grouped or loop"
        ):
            build()


@pytest.mark.usefixtures("installed")
def test_sizes_that_do_not_fit_fall_back_with_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    card(monkeypatch, (9, 0))
    assert not fuses(MoE(12, F, 3).parts, on_gpu(), "auto")


def test_a_precision_that_does_not_fit_is_refused_by_name() -> None:
    block = MoE(D, F, 3, backend="triton").double()
    with pytest.raises(UserError, match="float32, bfloat16 or float16, not in float64; choose auto"):
        block(torch.randn(4, D, dtype=torch.double))


def blocks_of(name: str) -> list[Any]:
    """The plain and stratified blocks in a system's block."""
    groups = (2, 3) if SYSTEMS[name].experts_setting == STRATA else (5,)
    torch.manual_seed(0)
    block = SYSTEMS[name].build(settings_of(name, moe_backend="triton"), BlockPlace("encoder", 1, D, F, groups))
    return [module for module in block.modules() if isinstance(module, MoE | StratifiedMoE)]


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("name", SYSTEMS)
def test_which_systems_are_computed_from_end_to_end(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    card(monkeypatch, (9, 0))
    found = blocks_of(name)
    with caplog.at_level(logging.WARNING):
        assert all(fuses(block.parts, on_gpu(), "triton") == (name in FUSED) for block in found)
    assert len(caplog.messages) == (bool(found) and name not in FUSED)


def choosing(**settings: Any) -> Any:
    return MoE(D, F, 4, backend="triton", **settings)


FITTING = {
    "a bias": lambda: choosing(gate_bias=True),
    "a bias that balances": lambda: choosing(load_bias=LoadBias(0.01)),
    "one choice": lambda: choosing(top_k=1),
}
OTHERS = {
    "selects by other rules than top-1 and top-2": lambda: choosing(selection=TopK(3)),
    "selects by other rules": lambda: choosing(selection=RankK(2)),
    "is checked in debug": lambda: choosing(debug=True),
}


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("make", FITTING.values(), ids=FITTING)
def test_gates_that_it_computes(make: Any) -> None:
    assert kernel_name(make().parts, torch.zeros(4, D), "triton") == ("triton" if available.interpreted() else "loop")


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("words", OTHERS)
def test_gates_that_it_does_not_compute(words: str, caplog: pytest.LogCaptureFixture) -> None:
    block = OTHERS[words]()
    with caplog.at_level(logging.WARNING):
        assert kernel_name(block.parts, torch.zeros(4, D), "triton") == "loop"
    assert words in caplog.text and "computing with another backend" in caplog.text


def test_gates_that_are_set_in_different_ways_are_left_to_others(caplog: pytest.LogCaptureFixture) -> None:
    block = StratifiedMoE(D, F, (2, 3), backend="triton").eval()
    with routing_override(block.gates[1], weighting=Weighting.RAW):
        assert kernel_name(block.parts, torch.zeros(4, D), "triton") == "loop"
    assert "its gates are set in different ways" in caplog.text
