"""An asynchronous all-to-all with its gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


@dataclass(frozen=True)
class AllToAllSplit:
    """One all-to-all: rows to and from each rank; of those that come, how many are for each of the ``experts`` here."""

    sent: list[int]
    received: list[int]
    receive_RL: Tensor
    experts: range
    group_name: str

    @classmethod
    def of(cls, send_RL: Tensor, receive_RL: Tensor, experts: range, group_name: str) -> AllToAllSplit:
        return cls(send_RL.sum(dim=1).tolist(), receive_RL.sum(dim=1).tolist(), receive_RL, experts, group_name)

    @property
    def leaving(self) -> int:
        return sum(self.sent)

    def reversed(self) -> AllToAllSplit:
        """The way back."""
        return replace(self, sent=self.received, received=self.sent)

    def start(self, rows_SD: Tensor) -> Tensor:
        """Send the rows off; what comes is there after ``wait``."""
        return start(rows_SD, self.received, self.sent, self.group_name)


def start(rows: Tensor, received: Sequence[int], sent: Sequence[int], group_name: str) -> Tensor:
    """An asynchronous all-to-all along the first dimension; ``wait`` ends it."""
    exchange = torch.ops._c10d_functional.all_to_all_single
    pending: Tensor = exchange(rows.contiguous(), list(received), list(sent), group_name)
    return pending


def wait(pending: Tensor) -> Tensor:
    """What ``start`` returned, with its rows in it."""
    arrived: Tensor = torch.ops._c10d_functional.wait_tensor(pending)
    return arrived


class PendingExchange:
    """An all-to-all and, in the backward pass, the gradients that are on their way: what they become has another number of rows, so that it
    cannot be handed over as a gradient."""

    def __init__(self, split: AllToAllSplit) -> None:
        self.split = split
        self.returning: Tensor | None = None


class AllToAllStart(torch.autograd.Function):
    """Sends rows off. In the backward pass, their gradients have been sent by ``AllToAllWait``: wait for them."""

    @staticmethod
    def forward(ctx: Any, rows_SD: Tensor, exchange: PendingExchange) -> Tensor:
        ctx.exchange = exchange
        return exchange.split.start(rows_SD)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _placeholder: Tensor) -> tuple[Tensor, None]:
        pending, ctx.exchange.returning = ctx.exchange.returning, None
        return wait(pending), None


class AllToAllWait(torch.autograd.Function):
    """Waits for rows. In the backward pass, sends their gradients off, for ``AllToAllStart`` to wait for."""

    @staticmethod
    def forward(ctx: Any, pending: Tensor, exchange: PendingExchange) -> Tensor:
        ctx.exchange = exchange
        return wait(pending).view_as(pending)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_SD: Tensor) -> tuple[Tensor, None]:
        ctx.exchange.returning = ctx.exchange.split.reversed().start(grad_SD)
        return grad_SD, None
