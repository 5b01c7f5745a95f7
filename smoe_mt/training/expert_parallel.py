"""Training with experts spread over ranks: gradients, their norm, and checkpoints that know nothing of ranks.

All other weights are those of plain data parallel training. An expert's gradient holds already what the tokens of all ranks
that share experts make of it, so it is added up over the replicas alone, and divided as the others are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from fairseq.distributed import LegacyDistributedDataParallel, ModuleProxyWrapper
from torch import Tensor, distributed, nn

from smoe_mt.moe import ExpertBank
from smoe_mt.moe.distributed.placement import ExpertRanks

BUFFER = 2**28  # gradients reduced at a time, at most


class ExpertDataParallel(LegacyDistributedDataParallel):
    """fairseq's data parallel model, which leaves alone what has the mark ``expert``, and the reduction of that."""

    def __init__(self, module: nn.Module, ranks: ExpertRanks, process_group: Any) -> None:
        shared = sum(parameter.numel() for parameter in module.parameters() if not hasattr(parameter, "expert"))
        # All of the buffer travels, so it must be of one size on all ranks, which may have different numbers of experts.
        super().__init__(module, process_group, buffer_size=min(BUFFER, shared))
        self.ranks = ranks

    def all_reduce_grads(self) -> None:
        """As fairseq's; called once an update, when all gradients are there."""
        super().all_reduce_grads()
        if self.accumulate_grads:
            return
        own = (p.grad for p in self.module.parameters() if hasattr(p, "expert") and p.grad is not None)
        gradients = [grad for grad in own if grad.numel()]  # a rank may have none of a stack's experts
        torch._foreach_div_(gradients, self.world_size)
        replicas = self.ranks.mesh["replica"]
        if replicas.size() > 1:
            for together in buckets([grad.numel() for grad in gradients], self.buffer.numel()):
                self._add_up([gradients[i] for i in together], replicas.get_group())

    def _add_up(self, gradients: Sequence[Tensor], group: Any) -> None:
        """Over the ranks of a group, in one reduction: of many small ones, each would wait for its messages."""
        if len(gradients) == 1:
            distributed.all_reduce(gradients[0], group=group)
            return
        sizes = [grad.numel() for grad in gradients]
        flat = torch.cat([grad.reshape(-1) for grad in gradients], out=self.buffer[: sum(sizes)])
        distributed.all_reduce(flat, group=group)
        for grad, part in zip(gradients, flat.split(sizes)):
            grad.copy_(part.view_as(grad))


def buckets(sizes: Sequence[int], most: int) -> list[list[int]]:
    """Places of neighbours that are together no larger than `most`; what is larger stays alone."""
    found: list[list[int]] = []
    total = 0
    for place, size in enumerate(sizes):
        if not found or total + size > most:
            found.append([])
            total = 0
        found[-1].append(place)
        total += size
    return found


def wrapped(module: nn.Module, ranks: ExpertRanks, process_group: Any) -> nn.Module:
    """A model for fairseq's trainer."""
    return ModuleProxyWrapper(ExpertDataParallel(module, ranks, process_group))


def add_expert_norm(norm: Tensor, parameters: Iterator[nn.Parameter], ranks: ExpertRanks) -> Tensor:
    """The norm of all gradients from that of the ones which every rank has; scalars, the same on all ranks."""
    gradients = [p.grad for p in parameters if hasattr(p, "expert") and p.grad is not None]
    square = torch.stack([torch.linalg.vector_norm(grad, dtype=torch.float32) ** 2 for grad in gradients]).sum()
    distributed.all_reduce(square, group=ranks.group)
    return (norm**2 + square).sqrt()


def experts_to_load(
    state: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer, ranks: ExpertRanks
) -> dict[str, Any]:
    """This rank's part of an optimiser's state of all experts, in the form of torch.optim's."""
    members, copies = stack_members(model), _copies(model, optimizer)
    mine = {
        number: {key: _own(value, members.get(copies.get(number, 0)), ranks) for key, value in entry.items()}
        for number, entry in state["state"].items()
    }
    return {**state, "state": mine}


def whole_experts(model: nn.Module, optimizer: torch.optim.Optimizer, ranks: ExpertRanks) -> dict[str, Any] | None:
    """All experts' weights and optimiser state on the first rank, in memory of the CPU: {"model": {name: [E, ...]},
    "optimizer": {number: {key: [E, ...]}}}; None on the others. All ranks call this.
    """
    if ranks.mesh["replica"].get_local_rank() != 0:
        return None
    members = stack_members(model)
    weights = {name: _gathered(parameter, members[id(parameter)], ranks) for name, parameter in _experts_of(model)}
    of_optimizer: dict[int, dict[str, Tensor | None]] = {}
    copies = _copies(model, optimizer)
    for number, parameter in _numbered(optimizer).items():
        if not hasattr(parameter, "expert"):
            continue
        state = optimizer.state.get(parameter, {})
        of_optimizer[number] = {
            key: _gathered(value, members[copies[number]], ranks)
            for key, value in state.items()
            if isinstance(value, Tensor) and value.shape == parameter.shape
        }
    return {"model": weights, "optimizer": of_optimizer} if ranks.rank == 0 else None


def put_whole_experts(state: dict[str, Any], whole: Mapping[str, Any]) -> None:
    """Put what ``whole_experts`` gathered into fairseq's checkpoint, in place of the first rank's part."""
    state["model"] = {**state["model"], **whole["model"]}
    optimizer = state.get("last_optimizer_state")
    if optimizer is not None:
        entries = dict(optimizer["state"])
        for number, entry in whole["optimizer"].items():
            entries[number] = {**entries.get(number, {}), **entry}
        state["last_optimizer_state"] = {**optimizer, "state": entries}


def stack_members(model: nn.Module) -> dict[int, Sequence[int]]:
    """Numbers of the experts that each stacked parameter has entries of, on all ranks, by the parameter's id."""
    banks = [module for module in model.modules() if isinstance(module, ExpertBank)]
    return {id(stack): bank.members(name) for bank in banks for name, stack in bank.stacks().items()}


def _experts_of(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, parameter) for name, parameter in model.named_parameters() if hasattr(parameter, "expert")]


def _numbered(optimizer: torch.optim.Optimizer) -> dict[int, nn.Parameter]:
    """Parameters by their numbers in the optimiser's state."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return dict(enumerate(parameters))


def _copies(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[int, int]:
    """The id of the model's parameter that each of the optimiser's is, or is a float32 copy of: they come in one order."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return {number: id(parameter) for number, parameter in zip(_numbered(optimizer), trained)}


def _own(value: Any, members: Sequence[int] | None, ranks: ExpertRanks) -> Any:
    """`members`: of the stack that the value is of; None: all ranks have that parameter."""
    whole = members is not None and isinstance(value, Tensor) and value.dim() > 0 and value.size(0) == len(members)
    return value[ranks.places(members or ())] if whole else value


def _gathered(own: Tensor, members: Sequence[int], ranks: ExpertRanks) -> Tensor | None:
    """A stack of these experts from each rank's, [E', ...]; on the first rank of those that share them."""
    own = own.detach()
    places = [ranks.places_of(rank, members) for rank in range(ranks.size)]
    padded = own.new_zeros(max(map(len, places)), *own.shape[1:])
    padded[: own.size(0)] = own
    parts = [torch.empty_like(padded) for _ in range(ranks.size)] if ranks.rank == 0 else None
    distributed.gather(padded, parts, dst=distributed.get_global_rank(ranks.group, 0), group=ranks.group)
    if parts is None:
        return None
    whole = own.new_empty(len(members), *own.shape[1:])
    for mine, part in zip(places, parts):
        whole[mine] = part[: len(mine)]
    return whole.cpu()
