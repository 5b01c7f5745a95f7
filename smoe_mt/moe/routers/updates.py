"""State of routers that changes after an update and not by a gradient, such as biases that balance the load.

Training passes add to a router's statistics (``Router.observe``). After each step of the optimiser ``after_update`` adds them up
over the ranks, lets each router change itself (``Router.after_update``), and begins anew. The trainer of ``smoe_mt`` calls it.
"""

from __future__ import annotations

import torch
from torch import Tensor, distributed, nn

from smoe_mt.moe.routers.base import Router, routers_of


@torch.no_grad()
def after_update(model: nn.Module, group: distributed.ProcessGroup | None = None) -> bool:
    """Once after every step of the optimiser, in a training loop of your own too: let the routers of ``model`` change.

    group  ranks that trained on parts of the batch, which all call this; None: there is one rank

    Returns whether a router has changed parameters of its own: an optimiser that keeps copies of them has to be told.
    """
    routers = _with_statistics(model)
    if group is not None:
        _add_up([statistic for router in routers for statistic in router.statistics()], group)
    before = _versions(routers)
    for router in routers:
        router.after_update()
    _forget(routers)
    return _versions(routers) != before


def forget_passes(model: nn.Module) -> None:
    """Let the passes since the last update count for nothing: their update is not made, or they were no part of one."""
    _forget(_with_statistics(model))


def _forget(routers: list[Router]) -> None:
    for router in routers:
        for statistic in router.statistics():
            statistic.zero_()


def _versions(routers: list[Router]) -> list[int]:
    return [parameter._version for router in routers for parameter in router.parameters()]


def _with_statistics(model: nn.Module) -> list[Router]:
    return [router for router in routers_of(model) if router.statistic_names]


def _add_up(statistics: list[Tensor], group: distributed.ProcessGroup) -> None:
    """In place, over the ranks; in one message of double precision, in which counts stay exact."""
    if not statistics:
        return
    flat = torch.cat([each.double().reshape(-1) for each in statistics])
    distributed.all_reduce(flat, group=group)
    for each, total in zip(statistics, flat.split([each.numel() for each in statistics])):
        each.copy_(total.view_as(each))
