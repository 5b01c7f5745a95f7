"""Opens another routing in a trained model, without a change of its weights: ``RoutingOptions`` applied to its gates."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from smoe_mt.errors import UserError, setting
from smoe_mt.generation.calibration import Calibrated, calibrate
from smoe_mt.generation.checkpoint import LoadedModel
from smoe_mt.generation.routing_options import Capacity, RoutingOptions
from smoe_mt.moe import (
    SYSTEMS,
    BiasedStrata,
    Gate,
    MostVisits,
    RankK,
    Router,
    Selection,
    Threshold,
    TopK,
    Weighting,
    routing_override,
)
from smoe_mt.moe.names import groups_of_blocks, module_of
from smoe_mt.moe.registry import DENSE
from smoe_mt.moe.routers.base import routers_of


@dataclass(frozen=True)
class GateRouting:
    """A gate, and what takes the place of its selection and weighting (None: its own)."""

    router: Router
    selection: Selection
    weighting: Weighting | None


@dataclass(frozen=True)
class Rerouting:
    """The routing of one model: ``opened`` while a search or an analysis takes.

    calibrated  of ``capacity=mean=M``: the bias that was found
    """

    options: RoutingOptions
    gates: tuple[GateRouting, ...] = ()
    calibrated: Calibrated | None = None

    @contextmanager
    def opened(self) -> Iterator[None]:
        """While this is open, the model routes so, in this thread."""
        with ExitStack() as stack:
            for gate in self.gates:
                stack.enter_context(routing_override(gate.router, selection=gate.selection, weighting=gate.weighting))
            yield

    def as_json(self) -> dict[str, Any]:
        """What is asked for, and the bias that was found for it."""
        found = {} if self.calibrated is None else {"capacity_bias": self.calibrated.bias}
        return {**self.options.given(), **found}


def rerouting(loaded: LoadedModel, options: RoutingOptions, calibrated: Calibrated | None = None) -> Rerouting:
    """The routing that ``options`` ask of a model; a mean of visits is calibrated now, on the model's validation text, unless
    it was ``calibrated`` before.

    Raises UserError where the model has no such routing, or a gate sees too few experts.
    """
    if options.changes_nothing:
        return Rerouting(options)
    dial = options.dial
    if dial is not None:
        _check_strata(loaded, dial)
        if dial.dial == "mean":
            calibrated = calibrated or calibrate(
                loaded, dial.value, lambda bias: Rerouting(options, _gates(loaded, options, Capacity("bias", bias)))
            )
            dial = Capacity("bias", calibrated.bias)
    return Rerouting(options, _gates(loaded, options, dial), calibrated)


def check_routing(loaded: LoadedModel, options: RoutingOptions, contrast_rank: int | None) -> None:
    """What `rerouting` would raise, but for a mean of visits that only measuring shows to be out of reach; and where there is
    a rank, what `check_rank` would.
    """
    dial = options.dial
    if dial is not None:
        _check_strata(loaded, dial)
    if not options.changes_nothing:
        _gates(loaded, options, Capacity("bias", 0.0) if dial is not None and dial.dial == "mean" else dial)
    if contrast_rank is not None:
        check_rank(loaded, contrast_rank)


@contextmanager
def weakened(model: Any, rank: int) -> Iterator[None]:
    """While this is open, a token's expert of this rank serves it alone, with weight 1 (SCMoE's weak pass)."""
    with routing_override(model, selection=RankK(rank), weighting=Weighting.UNIFORM):
        yield


def check_rank(loaded: LoadedModel, rank: int) -> None:
    """UserError for a model whose gates have no expert of this rank."""
    for gate in _routers(loaded, setting("contrast")):
        _check(loaded, setting("contrast_rank"), RankK(rank), gate)


def _gates(loaded: LoadedModel, options: RoutingOptions, dial: Capacity | None) -> tuple[GateRouting, ...]:
    found, asked = [], ", ".join(map(setting, options.given()))
    for router, strata in _routers(loaded, asked).items():
        selection, weighting = _selection(loaded, router, options)
        if dial is not None and dial.dial == "visits":
            selection = MostVisits(strata, int(dial.value), selection)
        elif dial is not None:
            selection = BiasedStrata(strata, dial.value, selection)
        _check(loaded, asked, selection, router)
        found.append(GateRouting(router, selection, weighting))
    return tuple(found)


def _selection(loaded: LoadedModel, router: Router, options: RoutingOptions) -> tuple[Selection, Weighting | None]:
    """Of one gate, the dial aside. UserError where it has no such routing."""
    own = router.selection
    if options.test_top_k is not None:
        if isinstance(own, TopK):
            return dataclasses.replace(own, k=options.test_top_k), None
        if isinstance(own, Threshold):
            return TopK(options.test_top_k), None
        raise _no_such_routing(loaded, "test_top_k", "gates that rank their experts")
    if options.test_top_p is not None:
        if not isinstance(router, Gate):
            raise _no_such_routing(loaded, "test_top_p", "gates whose probabilities sum to 1")
        return Threshold(options.test_top_p), Weighting.RENORMALISED
    if options.test_threshold is not None:
        if not isinstance(own, Threshold):
            raise _no_such_routing(loaded, "test_threshold", "gates that choose until probabilities sum to a threshold")
        return dataclasses.replace(own, threshold=options.test_threshold), None
    if not isinstance(own, (TopK, Threshold)):
        raise _no_such_routing(loaded, "capacity", "gates that rank their experts")
    return own, None


def _routers(loaded: LoadedModel, asked: str) -> dict[Router, tuple[int, ...]]:
    """The gates of all blocks, each with the groups of its block. UserError for a model without any."""
    if str(loaded.config.model.moe) == DENSE:
        raise UserError(f"{loaded.checkpoint}: {asked}: a dense model has no gates whose routing could be another")
    model = loaded.model
    return {
        router: groups
        for block, groups in groups_of_blocks(model).items()
        for router in routers_of(module_of(model, block))
    }


def _check(loaded: LoadedModel, asked: str, selection: Selection, router: Router) -> None:
    try:
        router.check_selection(selection)
    except ValueError as error:
        raise UserError(f"{loaded.checkpoint}: {asked}: {error}") from None


def _check_strata(loaded: LoadedModel, dial: Capacity) -> None:
    """UserError for a model whose tokens all make as many visits, and for more visits than any of its tokens makes."""
    system = str(loaded.config.model.moe)
    groups = [each for side in loaded.model.cfg.groups.values() for each in side]
    if system == DENSE or not SYSTEMS[system].nested or max(map(len, groups)) < 2:
        raise _no_such_routing(loaded, "capacity", "strata, which a token may visit or skip")
    most = max(map(len, groups))
    if dial.dial == "visits" and dial.value > most:
        raise UserError(
            f"{loaded.checkpoint}: {setting('capacity')} {dial} changes nothing: its blocks have at most {most} strata; give "
            f"visits={most - 1} or fewer"
        )


def _no_such_routing(loaded: LoadedModel, name: str, needed: str) -> UserError:
    return UserError(
        f"{loaded.checkpoint}: {setting(name)} needs {needed}, and --moe {loaded.config.model.moe} has none"
    )
