"""torch's fused Adam in the place of fairseq's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fairseq import optim
from fairseq.dataclass.configs import CommonConfig, OptimizationConfig
from fairseq.optim.adam import FairseqAdam, FairseqAdamConfig
from omegaconf import OmegaConf

from smoe_mt.errors import UserError
from smoe_mt.moe import MoE
from smoe_mt.training.fused_adam import FusedAdam, FusedAdamConfig, mark_experts

SHAPES = ((3, 4), (5,), (2, 2, 2))


def build(kind: Any, weights: list[torch.Tensor], decay: float = 0.0) -> Any:
    make = FusedAdamConfig if kind is FusedAdam else FairseqAdamConfig
    cfg = make(adam_betas="(0.9, 0.98)", adam_eps=1e-9, weight_decay=decay, tpu=False, lr=[0.01])
    return kind(cfg, [torch.nn.Parameter(weight.clone()) for weight in weights])


def step(optimizer: Any, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in optimizer.params:
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()


@pytest.fixture
def weights() -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(shape) for shape in SHAPES]


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_it_updates_as_fairseqs(weights: list[torch.Tensor], decay: float) -> None:
    ours, theirs = (build(kind, weights, decay) for kind in (FusedAdam, FairseqAdam))
    for number in range(5):
        step(ours, number)
        step(theirs, number)
        ours.set_lr(0.01 / (number + 1))
        theirs.set_lr(0.01 / (number + 1))
    for mine, expected in zip(ours.params, theirs.params, strict=True):
        torch.testing.assert_close(mine, expected)


@pytest.mark.parametrize("kinds", [(FusedAdam, FairseqAdam), (FairseqAdam, FusedAdam), (FusedAdam, FusedAdam)])
def test_a_run_goes_on_with_either(weights: list[torch.Tensor], kinds: tuple[Any, Any]) -> None:
    """Three updates with one, two with the other from its state: as five with fairseq's."""
    first, whole = build(kinds[0], weights), build(FairseqAdam, weights)
    for number in range(3):
        step(first, number)
    second = build(kinds[1], [parameter.detach() for parameter in first.params])
    second.load_state_dict(first.state_dict())
    for number in range(5):
        step(whole, number)
    for number in (3, 4):
        step(second, number)
    for mine, expected in zip(second.params, whole.params, strict=True):
        torch.testing.assert_close(mine, expected)


def test_its_state_is_of_fairseqs_form(weights: list[torch.Tensor]) -> None:
    ours, theirs = (build(kind, weights) for kind in (FusedAdam, FairseqAdam))
    for optimizer in (ours, theirs):
        step(optimizer, 1)
    mine, expected = ours.state_dict(), theirs.state_dict()
    assert [sorted(group) for group in mine["param_groups"]] == [sorted(group) for group in expected["param_groups"]]
    assert {name: type(value) for name, value in mine["state"][0].items()} == {
        name: type(value) for name, value in expected["state"][0].items()
    }
    assert FusedAdam.__name__ == FairseqAdam.__name__, "fairseq resumes by the name"


@pytest.mark.parametrize("limit", [0.0, 0.5])
def test_clipping_is_fairseqs(weights: list[torch.Tensor], limit: float) -> None:
    ours, theirs = (build(kind, weights) for kind in (FusedAdam, FairseqAdam))
    norms = []
    for optimizer in (ours, theirs):
        generator = torch.Generator().manual_seed(1)
        for parameter in optimizer.params:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        norms.append(optimizer.clip_grad_norm(limit))
    torch.testing.assert_close(*norms)
    for mine, expected in zip(ours.params, theirs.params, strict=True):
        torch.testing.assert_close(mine.grad, expected.grad)


def in_precision(name: str, weights: list[torch.Tensor], kind: str) -> Any:
    """fairseq's optimiser around ours or its own, as its trainer builds it for a precision; on a CPU."""
    optimizer = {
        "_name": name,
        "adam_betas": "(0.9, 0.98)",
        "adam_eps": 1e-9,
        "weight_decay": 0.0,
        "tpu": False,
        "lr": [0.01],
    }
    own = {"use_old_adam": False, "fp16_adam_stats": False}
    cfg = OmegaConf.create(
        {"optimizer": {**optimizer, **own, **({"expert_lr_scale": 1.0} if name == "fused_adam" else {})}}
    )
    cfg = OmegaConf.merge(
        {"common": CommonConfig(), "optimization": OptimizationConfig(), "distributed_training": {}}, cfg
    )
    cfg.common.fp16_no_flatten_grads, cfg.common.fp16_init_scale = True, 4
    cfg.common.bf16, cfg.common.fp16, cfg.common.amp = kind == "bf16", kind == "fp16", kind == "amp"
    cfg.distributed_training.distributed_world_size = 1
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "amp": torch.float32}[kind]
    params = [torch.nn.Parameter(weight.clone().to(dtype)) for weight in weights]
    build = optim.AMPOptimizer if kind == "amp" else optim.FP16Optimizer
    return build.build_optimizer(cfg, params), params


def update(optimizer: Any, params: list[torch.nn.Parameter], seed: int) -> None:
    """One update of a loss, as fairseq's trainer makes it."""
    optimizer.zero_grad()
    generator = torch.Generator().manual_seed(seed)
    gradients = [torch.randn(parameter.shape, generator=generator).to(parameter.dtype) for parameter in params]
    optimizer.backward(sum((p * g).float().sum() for p, g in zip(params, gradients, strict=True)))
    optimizer.clip_grad_norm(1.0)
    optimizer.step()


@pytest.mark.parametrize("kind", ["fp16", "bf16", "amp"])
@pytest.mark.filterwarnings("ignore::UserWarning")  # there is no GPU whose gradients amp would scale
def test_it_updates_as_fairseqs_in_half_precision(weights: list[torch.Tensor], kind: str) -> None:
    """Three updates with each, two more with the other one's state."""
    ours, theirs = (in_precision(name, weights, kind) for name in ("fused_adam", "adam"))
    for number in range(3):
        update(*ours, number)
        update(*theirs, number)
    states = [one.state_dict() for one, _ in (ours, theirs)]
    ours[0].load_state_dict(states[1])
    theirs[0].load_state_dict(states[0])
    for number in (3, 4):
        update(*ours, number)
        update(*theirs, number)
    for mine, expected, before in zip(ours[1], theirs[1], weights, strict=True):
        torch.testing.assert_close(mine, expected)
        assert not torch.equal(mine, before.to(mine.dtype))


def optimizer_of(block: torch.nn.Module, scale: float) -> FusedAdam:
    cfg = FusedAdamConfig(adam_betas="(0.9, 0.98)", adam_eps=1e-9, tpu=False, lr=[0.01], expert_lr_scale=scale)
    return FusedAdam(cfg, [*block.parameters()])


def test_experts_learn_at_a_rate_of_their_own() -> None:
    block = MoE(8, 16, num_experts=4)
    mark_experts(block)
    optimizer = optimizer_of(block, 0.5)
    optimizer.set_lr(0.02)
    before = [parameter.detach().clone() for parameter in (block.gate.weight, block.experts.w_in)]
    for parameter in optimizer.params:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    gate, experts = block.gate.weight - before[0], block.experts.w_in - before[1]
    torch.testing.assert_close(gate, torch.full_like(gate, -0.02))  # Adam's first step: the learning rate
    torch.testing.assert_close(experts, torch.full_like(experts, -0.01))
    assert optimizer.get_lr() == 0.02


def test_the_experts_rate_holds_after_resuming() -> None:
    block = MoE(8, 16, num_experts=4)
    mark_experts(block)
    first, second = optimizer_of(block, 0.5), optimizer_of(block, 0.5)
    first.set_lr(0.02)
    second.load_state_dict(first.state_dict())
    second.set_lr(0.04)
    assert [group["lr"] for group in second.param_groups] == [0.04, 0.02]


def test_a_rate_for_experts_is_refused_where_there_are_none(weights: list[torch.Tensor]) -> None:
    with pytest.raises(UserError, match="has no experts"):
        optimizer_of(torch.nn.Linear(2, 2), 0.5)
