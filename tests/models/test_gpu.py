"""Whole models in half precision, trained by the kernels for a GPU: near the same model in float32, on a GPU and on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from smoe_mt.criterions import StratifiedRoutingCriterion
from smoe_mt.models import SMoETransformerModel
from smoe_mt.models.padding import never_ask
from smoe_mt.moe.kernels.available import interpreted
from smoe_mt.moe.routers.base import routers_of

HALF = {"bfloat16": (torch.bfloat16, 0.03), "float16": (torch.float16, 0.004)}  # and the distance that is allowed
SYSTEMS: dict[str, dict[str, Any]] = {
    "vanilla": {"moe": "vanilla", "num_experts": 4},
    "smoe": {"moe": "stratified", "strata": "2,2"},
    "release": {"moe": "stratified", "strata": "2,2", "variant": "release"},
}
ONE_LAYER = {"encoder_layers": 1, "decoder_layers": 1, "moe_freq": 1, "dropout": 0.0, "attention_dropout": 0.0}
on_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available() or interpreted(), reason="there is no GPU"),
]
CASES = [
    *(
        pytest.param(system, "cuda", backend, dtype, marks=on_gpu)
        for system in SYSTEMS
        for backend in ("triton", "grouped")
        for dtype in HALF
    ),
    ("smoe", "cpu", "triton", "float16"),  # interpreted, the Triton kernels know no bfloat16
    *((system, "cpu", "grouped", "bfloat16") for system in SYSTEMS),
]


def decided(model: Any) -> Any:
    """Whose gates send even and odd tokens to different experts, by so much that no rounding sends them elsewhere."""
    with torch.no_grad():
        embedding = model.encoder.embed_tokens.weight
        embedding[:, 0] = 1.5 - 3.0 * (torch.arange(len(embedding)) % 2)
        for router in routers_of(model):
            router.weight.mul_(0.1)[:, 0] = torch.linspace(0.5, -0.5, router.num_experts)
    return model


def sample_on(device: str) -> dict[str, Any]:
    """Sentences of several lengths."""
    draw = torch.Generator().manual_seed(3)
    source, target = (torch.randint(4, 24, (4, length), generator=draw) for length in (7, 6))
    source[1:, 5:], target[2:, 4:] = 1, 1
    previous = target.roll(1, dims=1)
    previous[:, 0] = 2
    net_input = {"src_tokens": source, "src_lengths": source.ne(1).sum(dim=1), "prev_output_tokens": previous}
    sample = {"target": target, "direction": torch.arange(4) % 2}
    counts = {"ntokens": int(target.ne(1).sum()), "nsentences": 4}
    there = {name: tensor.to(device) for name, tensor in (net_input | sample).items()}
    return {"net_input": {name: there[name] for name in net_input}, **{name: there[name] for name in sample}, **counts}


def loss_and_gradients(model: Any, criterion: Any, device: str) -> tuple[Tensor, dict[str, Tensor]]:
    """Of a training step with what the blocks add to the loss; float64, on the CPU."""
    with never_ask():
        loss, size, _ = criterion(model, sample_on(device))
    (loss / size).backward()
    gradients = {name: p.grad.double().cpu() for name, p in model.named_parameters() if p.grad is not None}
    return (loss / size).detach().double().cpu(), gradients


@pytest.mark.parametrize(("system", "device", "backend", "dtype"), CASES)
def test_a_step_in_half_precision_is_near_that_in_float32(
    make_model: Callable[..., SMoETransformerModel],
    task: SimpleNamespace,
    system: str,
    device: str,
    backend: str,
    dtype: str,
) -> None:
    """The loss, all gradients together, and those of the experts and of the gates by themselves."""
    precision, tolerance = HALF[dtype]
    settings = {**SYSTEMS[system], **ONE_LAYER}
    exact, half = (make_model(**settings, moe_backend=each) for each in ("loop", backend))
    half.load_state_dict(decided(exact).state_dict())
    half = half.to(device, precision)
    exact.load_state_dict({name: value.float().cpu() for name, value in half.state_dict().items()})
    criterion = StratifiedRoutingCriterion(task, sentence_avg=False, label_smoothing=0.1).train()
    found, gradients = loss_and_gradients(half.train(), criterion.to(device), device)
    wanted, exact_gradients = loss_and_gradients(exact.train(), criterion.to("cpu"), "cpu")
    assert abs(found - wanted) <= tolerance * wanted
    assert gradients.keys() == exact_gradients.keys()
    for part in ("", ".experts.", ".gate"):
        names = [name for name in gradients if part in name]
        got, want = (torch.cat([each[name].flatten() for name in names]) for each in (gradients, exact_gradients))
        assert (got - want).norm() <= tolerance * want.norm(), part
