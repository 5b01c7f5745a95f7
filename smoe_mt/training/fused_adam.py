"""Optimiser ``fused_adam``: fairseq's Adam computed by torch's fused kernel, one launch for all weights.

Weight decay is decoupled, as in fairseq's. In the denominator torch adds epsilon after correcting the second moment's bias, fairseq
before: an epsilon that differs by the factor sqrt(1 - beta2^t), which is 1 after some thousand updates.

With fp16 and bf16 it updates fairseq's float32 copies. The kernel knows no weights without such copies (memory_efficient_fp16, _bf16):
these are refused as the configuration is checked (``allowed.config``).
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from fairseq.optim import FairseqOptimizer, register_optimizer
from fairseq.optim.adam import FairseqAdam, FairseqAdamConfig
from torch import Tensor, nn

from smoe_mt.errors import UserError
from smoe_mt.moe import ExpertBank
from smoe_mt.training.compiler import step_without_compiler

OF_AN_EXPERT = "smoe_mt_of_an_expert"  # mark of a parameter
SCALE = "lr_scale"  # of a group of parameters
STEP = step_without_compiler(torch.optim.AdamW)
GROUP_KEYS = ("lr", "betas", "eps", "weight_decay", "amsgrad", "params")  # of fairseq's Adam


class TorchAdam(torch.optim.AdamW):
    """torch's, whose state is written and read in the form of fairseq's: so a run may change from one to the other."""

    supports_flat_params = True

    def __init__(self, params: Any, **settings: Any) -> None:
        super().__init__(params, fused=True, capturable=torch.cuda.is_available(), **settings)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """As torch's."""
        return STEP(self, closure)

    def state_dict(self) -> dict[str, Any]:
        """As fairseq's Adam: steps are whole numbers, read back from the device at once."""
        found = super().state_dict()
        state: dict[Any, dict[str, Any]] = {key: dict(one) for key, one in found["state"].items()}
        steps = torch.stack([one["step"] for one in state.values()]).tolist() if state else []
        for one, step in zip(state.values(), steps, strict=True):
            one["step"] = int(step)
        groups = [{name: group[name] for name in GROUP_KEYS} for group in found["param_groups"]]
        return {**found, "state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Of either form."""
        state = {key: {**one, "step": torch.as_tensor(float(one["step"]))} for key, one in state_dict["state"].items()}
        own = [{name: value for name, value in group.items() if name != "params"} for group in self.param_groups]
        if len(own) != len(state_dict["param_groups"]):
            raise ValueError("loaded state dict has a different number of parameter groups")
        groups = [{**mine, **loaded} for mine, loaded in zip(own, state_dict["param_groups"], strict=True)]
        super().load_state_dict({**state_dict, "state": state, "param_groups": groups})


def mark_experts(model: nn.Module) -> None:
    """So that the optimiser, which is given weights without their names, knows the experts'."""
    for bank in (module for module in model.modules() if isinstance(module, ExpertBank)):
        for stack in bank.stacks().values():
            setattr(stack, OF_AN_EXPERT, True)


def _groups(params: list[Any], expert_lr_scale: float) -> list[Any]:
    """One group; two where experts learn at a rate of their own, theirs last."""
    if expert_lr_scale == 1:
        return params
    experts = [parameter for parameter in params if hasattr(parameter, OF_AN_EXPERT)]
    if not experts:
        raise UserError(
            f"optimizer.expert_lr_scale={expert_lr_scale}: the model has no experts whose weights the optimiser can tell apart "
            "(fp16 and bf16 copies cannot be told apart): leave it out"
        )
    others = [parameter for parameter in params if not hasattr(parameter, OF_AN_EXPERT)]
    return [{"params": others}, {"params": experts, SCALE: expert_lr_scale}]


@dataclass
class FusedAdamConfig(FairseqAdamConfig):
    """The settings of fairseq's Adam; `use_old_adam` and `fp16_adam_stats` have no effect."""

    expert_lr_scale: float = field(
        default=1.0, metadata={"help": "the experts' weights learn at this times the learning rate", "range": (0, 1e6)}
    )


@register_optimizer("fused_adam", dataclass=FusedAdamConfig)
class FusedAdam(FairseqAdam):
    """fairseq's Adam, with torch's kernel; the gradient's norm in few launches, too."""

    def __init__(self, cfg: FusedAdamConfig, params: Any) -> None:
        FairseqOptimizer.__init__(self, cfg)
        self._optimizer = TorchAdam(_groups([*params], cfg.expert_lr_scale), **self.optimizer_config)

    def set_lr(self, lr: float) -> None:
        """Of all weights but those with a scale of their own."""
        for group in self.param_groups:
            group["lr"] = lr * group.get(SCALE, 1.0)

    def clip_grad_norm(self, max_norm: float, aggregate_norm_fn: Any = None) -> Tensor:
        """The norm of all gradients, 0-dim, which are scaled down to `max_norm` unless that is 0."""
        params = [parameter for parameter in self.params if parameter.grad is not None]
        sharded = any(hasattr(parameter, "expert") for parameter in params)
        if sharded or aggregate_norm_fn is not None or not params:
            return super().clip_grad_norm(max_norm, aggregate_norm_fn)
        norm = nn.utils.get_total_norm([parameter.grad for parameter in params])
        if max_norm > 0:
            nn.utils.clip_grads_with_norm_(params, max_norm, norm)
        return norm


# fairseq compares names when it resumes, and the states of the two are alike.
FusedAdam.__name__ = FairseqAdam.__name__
