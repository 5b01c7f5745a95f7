"""Another selection or weighting for an evaluation pass, over the same weights: rank k, another top-k, another threshold.

Nothing is written into the model: a router looks up the override that is in force in its thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from smoe_mt.context import set_to
from smoe_mt.moe.routers.base import IN_FORCE, Override, Selection, Weighting, routers_of

#: The overrides of a thread.
RoutingInForce = tuple[tuple[nn.Module, Override], ...]


@contextmanager
def routing_override(
    model: nn.Module, *, selection: Selection | None = None, weighting: Weighting | None = None
) -> Iterator[None]:
    """Let all routers in ``model`` choose, and weigh, in another way while this is open. Within another override the
    inner one wins, and leaves what it does not name to the outer one.

        with routing_override(model, selection=RankK(2), weighting=Weighting.UNIFORM): ...

    Raises:
        ValueError: a model in training mode, or without routers, or a gate that sees too few experts or is
            balanced by a bias that the selection cannot take.
    """
    if model.training:
        raise ValueError("routing can be overridden in evaluation alone: call model.eval() first")
    routers = routers_of(model)
    if not routers:
        raise ValueError("the model has no routers whose routing could be overridden")
    if selection is not None:
        for router in routers:
            router.check_selection(selection)
    outer = IN_FORCE.get() or {}
    inner = dict(outer)
    for router in routers:
        before = outer.get(router, Override(None, None))
        inner[router] = Override(selection or before.selection, weighting or before.weighting)
    with set_to(IN_FORCE, inner):
        yield


def routing_in_force() -> RoutingInForce:
    """The overrides of this thread, of whatever models: equal where tokens are routed alike; () where there are none."""
    return tuple((IN_FORCE.get() or {}).items())
