"""The tensors that a block takes, gives and keeps, each group one record.

Operators and autograd take tensors in a row: ``flat`` puts a record's fields in a row, ``sizes`` and ``unflat`` bring them back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

#: A field of a record: a tensor or none, or several tensors.
Field = Tensor | None | list[Tensor]


class Experts(NamedTuple):
    """The experts' weights: [E, F, D], [E, F], [E, D, F], [E, D]."""

    w_in: Tensor
    b_in: Tensor
    w_out: Tensor
    b_out: Tensor


class Norm(NamedTuple):
    """A layer norm's weights, [D] each."""

    gamma: Tensor
    beta: Tensor


class Operands(NamedTuple):
    """What a block is given.

    x [T, D]; padding bool [T] or None; next_gate int64 [all experts], any where there is one gate; seeds int64 [gates x SEEDS] or
    None, where nothing is drawn; orders fp32 [E_i] each, added to probabilities for the choice alone, or nothing; gates [E_i, D]
    each; gate_biases [E_i] each, or nothing; norms gamma, beta of each gate, or nothing; experts as ``Experts``, in the precision to
    compute in
    """

    x: Tensor
    padding: Tensor | None
    next_gate: Tensor
    seeds: Tensor | None
    orders: list[Tensor]
    gates: list[Tensor]
    gate_biases: list[Tensor]
    norms: list[Tensor]
    experts: list[Tensor]

    def with_gradients(self) -> list[Tensor]:
        """Those that get gradients, in the order of ``block_backward``'s results."""
        return [self.x, *self.gates, *self.gate_biases, *self.norms, *self.experts]

    def tensors(self) -> list[Tensor]:
        """All that kernels read and the caller allocated."""
        return [*self.with_gradients(), *self.orders, *([] if self.padding is None else [self.padding])]

    def packs(self, gate: int) -> bool:
        """Whether not all tokens are at a gate."""
        return gate > 0 or self.padding is not None

    def norm_of(self, gate: int) -> Norm | None:
        """The norm before a gate."""
        return Norm(*self.norms[2 * gate : 2 * gate + 2]) if self.norms else None


class Passed(NamedTuple):
    """What a gate decided and kept. A token's place is that in ``tokens``; of the others nothing is defined.

    tokens int32 [T], those at the gate and then the others (empty: all are there); count int32 [1], how many are
    by place: means and scales fp32 [T], log_sums fp32 [T] of the logits' exponentials (for the z-loss), probs fp32 [T, E],
    choices int32 [K, T], row_of_slot int32 [K, T] (-1: not served)
    token_of_row int32 [S] (-1: padding), weight_of_row fp32 [S], expert_of_tile int32 [tiles], starts int32 [E + 1]
    load int64 [3, E]: asked, served, first choices
    kept [rows of a turn, F], of the last turn that had rows: the weighted activation, or what comes before the activation where
    its slope asks for that
    """

    tokens: Tensor
    count: Tensor
    means: Tensor
    scales: Tensor
    log_sums: Tensor
    probs: Tensor
    choices: Tensor
    row_of_slot: Tensor
    token_of_row: Tensor
    weight_of_row: Tensor
    expert_of_tile: Tensor
    starts: Tensor
    load: Tensor
    kept: Tensor

    @property
    def packed(self) -> bool:
        """Whether not all tokens are at the gate."""
        return self.tokens.size(0) > 0


class Results(NamedTuple):
    """What a block gives: y [T, D], visits int64 [T], load int64 [3, E_i] of each gate.

    losses   fp32 [gates, 2]: balance loss, z-loss (0 where it is not computed)
    entropy  fp32 [gates]
    later    [gates - 1, T, D], the inputs of later gates
    normed   [T, D] after its norm, what the last gate that a token met saw of it; empty without norms
    kept     all tensors of each gate's ``Passed`` but its load, where a backward pass follows
    """

    y: Tensor
    losses: Tensor
    entropy: Tensor
    visits: Tensor
    loads: list[Tensor]
    later: Tensor
    normed: Tensor
    kept: list[Tensor]


class Saved(NamedTuple):
    """What a backward pass needs; fields as in ``Operands`` and ``Results``."""

    x: Tensor
    next_gate: Tensor
    seeds: Tensor | None
    gates: list[Tensor]
    gate_biases: list[Tensor]
    norms: list[Tensor]
    experts: list[Tensor]
    loads: list[Tensor]
    later: Tensor
    normed: Tensor
    kept: list[Tensor]

    @staticmethod
    def of(given: Operands, results: Results) -> Saved:
        own = (given.x, given.next_gate, given.seeds, given.gates, given.gate_biases, given.norms, given.experts)
        return Saved(*own, results.loads, results.later, results.normed, results.kept)

    def operands(self) -> Operands:
        """What the block was given, but for what only the way forward reads."""
        own = (self.seeds, [], self.gates, self.gate_biases, self.norms, self.experts)
        return Operands(self.x, None, self.next_gate, *own)

    def passed(self, gate: int) -> Passed:
        """What a gate decided and kept."""
        count = len(Passed._fields) - 1
        own = self.kept[count * gate : count * (gate + 1)]
        return Passed._make((*own[:-1], self.loads[gate], own[-1]))


def kept_of(passes: Sequence[Passed]) -> list[Tensor]:
    """As ``Results.kept``; ``Saved.passed`` is the inverse."""
    return [tensor for passed in passes for tensor in (*passed[:-2], passed.kept)]


def flat(record: Sequence[Field]) -> list[Tensor | None]:
    """The tensors of a record's fields in a row."""
    return [tensor for field in record for tensor in (field if isinstance(field, list) else [field])]


def sizes(record: Sequence[Field]) -> tuple[int | None, ...]:
    """How many tensors each field is a list of; None where it is no list."""
    return tuple(len(field) if isinstance(field, list) else None for field in record)


def unflat(tensors: Sequence[Tensor | None], sizes: Sequence[int | None]) -> list[Field]:
    """The fields of which ``flat`` made ``tensors``."""
    left = iter(tensors)
    fields: list[Field] = []
    for size in sizes:
        if size is None:
            fields.append(next(left))
        else:
            fields.append([tensor for _ in range(size) if (tensor := next(left)) is not None])
    return fields


def results_of(tensors: Sequence[Tensor], gates: int) -> Results:
    """``Results`` of a block of so many gates from its tensors in a row."""
    one, kept = None, len(tensors) - gates - (len(Results._fields) - 2)
    return Results(*unflat(tensors, (one, one, one, one, gates, one, one, kept)))  # type: ignore[arg-type]
