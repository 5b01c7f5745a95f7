"""What a pass through a block tells besides its output: losses, counts and visits."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class GateLoad:
    """Load of the experts that one gate sees; int64 [E_i] each.

    asked   slots asked of the expert: all choices of the tokens at this gate
    served  slots it served: those within its capacity
    tokens  tokens whose first choice it is: they move to the stratum after it
    """

    asked: Tensor
    served: Tensor
    tokens: Tensor


@dataclass(frozen=True)
class Routing:
    """Routing of one pass through one block.

    balance_loss  scalar, differentiable: mean over the block's gates of E_i * sum_e f_e p_e (eq. 8-11, before alpha)
    visits        int64, shape of the block's input without D: sets of experts that processed each token (its
                  requested capacity), 0 for padding; a visit counts even if all its slots were dropped
    load          one GateLoad per gate
    entropy       per gate, mean entropy of its distribution in nats; 0 at a gate that no token reached
    gate_sum      conditional routing alone: sum of its mixing gate over the tokens, else None
    """

    balance_loss: Tensor
    visits: Tensor
    load: tuple[GateLoad, ...]
    entropy: tuple[Tensor, ...]
    gate_sum: Tensor | None = None
