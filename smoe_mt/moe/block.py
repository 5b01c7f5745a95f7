"""The interface of a block to a transformer layer: the block, and the routing record that a pass returns with the output."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass, field

from torch import Tensor, nn

from smoe_mt.context import set_to

_outputs_only: ContextVar[bool] = ContextVar("outputs only", default=False)


def outputs_only() -> AbstractContextManager[None]:
    """While open, in this thread, passes in evaluation need not fill in their routing: of a record, visits and units alone are
    sure to be there. For a search, which asks for nothing but the outputs.
    """
    return set_to(_outputs_only, True)


def wants_routing(training: bool) -> bool:
    """Whether a pass has to fill in its routing."""
    return training or not _outputs_only.get()


@dataclass(frozen=True)
class GateLoad:
    """Load of the experts that one gate sees; int64 [E_i] each.

    asked   slots asked of the expert: all choices of the tokens at this gate
    served  slots it served: those within its capacity
    tokens  tokens that it leads: in a stratified block they move to the stratum after it (the first choice)
    """

    asked: Tensor
    served: Tensor
    tokens: Tensor


@dataclass(frozen=True)
class Routing:
    """Routing of one pass through one block.

    losses          scalars, differentiable, by name: each the mean over the block's gates. "balance": E_i * sum_e f_e p_e
                    (eq. 8-11, before alpha)
    visits          int64, shape of the block's input without D: sets of experts that processed each token (its
                    requested capacity), 0 for padding; a visit counts even if all its slots were dropped
    load            one GateLoad per gate
    entropy         per gate, mean entropy of its distribution in nats; 0 at a gate that no token reached
    units_of_visit  hidden units asked of the experts: of every visit, or int64 of each token; read ``units``
    sums            scalars that a loss over all blocks of a model adds up, by name
    measures        per gate, what its router has for the log (``Router.measures``): means over the gate's tokens, by name
    """

    losses: Mapping[str, Tensor]
    visits: Tensor
    load: tuple[GateLoad, ...]
    entropy: tuple[Tensor, ...]
    units_of_visit: int | Tensor = 0
    sums: Mapping[str, Tensor] = field(default_factory=dict)
    measures: tuple[Mapping[str, Tensor], ...] = ()

    @property
    def gate_sum(self) -> Tensor | None:
        """Conditional routing alone: sum of its mixing gate over the tokens, else None."""
        return self.sums.get("gate")

    @property
    def balance_loss(self) -> Tensor:
        """The loss called "balance"."""
        return self.losses["balance"]

    @property
    def units(self) -> Tensor:
        """Hidden units of experts asked for each token, those of dropped slots too; int64, shape of ``visits``."""
        if isinstance(self.units_of_visit, Tensor):
            return self.units_of_visit
        return self.visits * self.units_of_visit


def zero_at_padding(x: Tensor, padding_mask: Tensor | None) -> Tensor:
    """x [..., D] with 0 at padding, bool [...]: what layers read that compute all positions. A NaN that lies at padding would
    reach their weights' gradients, for 0 times NaN is NaN."""
    return x if padding_mask is None else x.masked_fill(padding_mask.unsqueeze(-1), 0.0)


class MoEBlock(nn.Module):
    """Base of all blocks: ``forward(x, padding_mask) -> (y, Routing)``; x float [..., D], padding_mask bool [...] or None.

    has_residual  norms, dropout and residual are inside; otherwise they belong to the transformer layer, as around a dense FFN
    """

    has_residual: bool = False

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> tuple[Tensor, Routing]:
        raise NotImplementedError
