"""A router: scorer x selection x weighting (paper: eq. 5-6).

    probs_TE = router(x_TD)                       scorer: the module's own parameters
    choices  = selection(probs_TE, may_sync)      which experts a token is sent to, any number of them
    weights  = combine_weights(probs_TE, choices, kept_TK, weighting)    once it is known who was dropped

A new scorer is a subclass of ``Router``; a new selection any object like ``Selection``. Everything here is computed in at
least float32, whatever the precision of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn

from smoe_mt.moe.losses import balance_loss, mean_entropy
from smoe_mt.moe.routers.bias import LoadBias


class Choices(NamedTuple):
    """The experts that each token is sent to, numbered from 0 among those that the gate sees.

    experts_TK   int64 [T, K], the best one first; the number of experts stands for no choice
    lead_T       int64 [T], the expert that decides the next stratum, and whose load the balance loss balances
    complete     every slot has a choice
    priority_TK  under a capacity, who is served first among the k-th choices, highest first; None: in token order
    """

    experts_TK: Tensor
    lead_T: Tensor
    complete: bool = True
    priority_TK: Tensor | None = None


class Selection(Protocol):
    """Which experts a token chooses by its probabilities, by a rule that does not change: a search captures what it computes.

    One that can be told another order of the experts has ``takes_order = True`` and a third argument, ``order_TE``: scores whose
    largest is the best expert. What it sums or compares with a threshold are the probabilities still.
    """

    def __call__(self, probs_TE: Tensor, may_sync: bool) -> Choices:
        """``may_sync``: sizes may depend on values, for which a GPU's host waits."""
        ...

    def check(self, visible: int, where: str) -> None:
        """ValueError where a gate, named ``where``, sees too few experts."""
        ...


def takes_order(selection: Selection) -> bool:
    """Whether a selection can be told another order of the experts."""
    return bool(getattr(selection, "takes_order", False))


def select(selection: Selection, probs_TE: Tensor, may_sync: bool, order_TE: Tensor | None = None) -> Choices:
    """What a selection chooses, in the order of ``order_TE`` where that is given."""
    if order_TE is None:
        return selection(probs_TE, may_sync)
    choices: Choices = cast(Any, selection)(probs_TE, may_sync, order_TE)
    return choices


class Weighting(Enum):
    """What a served choice weighs: its probability, that over the sum of the served ones, 1 over their number, or 1."""

    RAW = "raw"
    RENORMALISED = "renormalised"
    UNIFORM = "uniform"
    ONE = "one"


@dataclass(frozen=True)
class Override:
    """What takes the place of a router's own selection and weighting for a while (``override.py``); None: nothing does."""

    selection: Selection | None
    weighting: Weighting | None


#: The overrides of this thread, by router.
IN_FORCE: ContextVar[Mapping[nn.Module, Override] | None] = ContextVar("routing_override", default=None)


def _overrides() -> Mapping[nn.Module, Override] | None:
    return IN_FORCE.get()


# A compiled block keeps what was in force as it was compiled (torch.compiler.assume_constant_result would load the compiler).
_overrides._dynamo_marked_constant = True  # type: ignore[attr-defined]


class Router(nn.Module):
    """Base of routers. A subclass writes ``scores``, and ``losses`` if it has others than the balance loss.

    num_experts     that it sees
    where           how errors name it; the block sets it, and a model of several blocks may set it to name block and gate
    debug           look for what is not finite at every pass; on a GPU the host waits for the answer
    selection_bias  float32 [E], what is added to the scores for selection alone; None: nothing

    Raises:
        ValueError: fewer visible experts than choices.
    """

    #: Names of the losses that ``losses`` returns.
    loss_names: tuple[str, ...] = ("balance",)
    #: Names of what it keeps with an entry for each expert that it sees, [E, ...]. Experts can be merged where that is all.
    row_names: tuple[str, ...] = ()
    #: Names of what ``measures`` returns.
    measure_names: tuple[str, ...] = ()
    #: Names of those that it computes where it is asked to (``request_losses``), for they cost something.
    on_request: tuple[str, ...] = ()
    #: Buffers that ``observe`` adds to (``add_statistic``).
    statistic_names: tuple[str, ...] = ()
    #: Is told the choices of each pass of tokens through the gate, if set.
    listener: Callable[[Choices], None] | None = None

    def __init__(
        self,
        num_experts: int,
        selection: Selection,
        weighting: Weighting,
        where: str = "the gate",
        debug: bool = False,
    ) -> None:
        super().__init__()
        selection.check(num_experts, where)
        self.num_experts = num_experts
        self.selection = selection
        self.weighting = weighting
        self.where = where
        self.debug = debug
        self.selection_bias: Tensor | None = None

    def scores(self, x_TD: Tensor) -> Tensor:
        """A probability of each expert, computed in at least float32 (``at_least_float32``) and without autocast; [T, E].

        They need not sum to 1, but lie in [0, 1].
        """
        raise NotImplementedError

    def losses(
        self, x_TD: Tensor, probs_TE: Tensor, choices: Choices, lead_E: Tensor, active_T: Tensor | None
    ) -> Mapping[str, Tensor]:
        """Differentiable scalars by name, ``loss_names``, of the active tokens: means by ``mean_over(values_T, active_T)``.

        x_TD      the tokens, for a loss of something else than the probabilities. A router keeps nothing of a pass in
                  itself: it could not be copied then
        probs_TE  their scores
        lead_E    int64 [E], counts ``choices.lead_T`` of the active tokens
        """
        return {"balance": balance_loss(probs_TE, lead_E, active_T)}

    def combine(self, probs_TE: Tensor, choices: Choices, kept_TK: Tensor | None, weighting: Weighting) -> Tensor:
        """Weight of each choice, once it is known which ones are served (``combine_weights``); [T, K]."""
        return combine_weights(probs_TE, choices.experts_TK, kept_TK, weighting, choices.complete)

    def entropy(self, probs_TE: Tensor, choices: Choices, active_T: Tensor | None) -> Tensor:
        """Mean entropy of the gate's distribution, in nats; scalar without gradient."""
        return mean_entropy(probs_TE, active_T)

    def measures(self, probs_TE: Tensor, choices: Choices, active_T: Tensor | None) -> Mapping[str, Tensor]:
        """What the log shows of this gate besides: means over the active tokens by name, ``measure_names``; no gradient."""
        return {}

    def request_losses(self, names: Sequence[str]) -> None:
        """Compute these of the losses ``on_request`` from now on, and no others of them.

        Raises:
            ValueError: a loss that it has not.
        """
        own = type(self).loss_names
        for name in names:
            if name not in (*own, *self.on_request):
                raise ValueError(f"{self.where}: {type(self).__name__} has no loss {name!r}")
        self.loss_names = tuple(dict.fromkeys((*own, *names)))

    def choose(self, probs_TE: Tensor, selection: Selection, may_sync: bool) -> Choices:
        """What ``selection`` chooses, by the probabilities plus the bias where there is one."""
        order_TE = None if self.selection_bias is None else probs_TE.detach() + self.selection_bias
        return select(selection, probs_TE, may_sync, order_TE)

    def check_selection(self, selection: Selection) -> None:
        """ValueError where a selection does not go with this router."""
        selection.check(self.num_experts, self.where)
        if self.selection_bias is not None and not takes_order(selection):
            raise ValueError(
                f"{self.where}: balance_bias goes with selections that can be told another order of the experts, "
                f"and not with {selection}"
            )

    def balance_load(self, bias: LoadBias, groups: Sequence[int]) -> None:
        """Balance the load by a bias from now on, within ``groups``: numbers of experts in their order.

        Raises:
            ValueError: a router that has none.
        """
        raise ValueError(f"{self.where}: balance_bias is of softmax gates, and {type(self).__name__} is none")

    # --- state that changes after an update and not by a gradient: see updates.py ---

    def add_statistic(self, name: str, zeros: Tensor) -> None:
        """Register the buffer ``name`` for ``observe`` to add to; no checkpoint has it."""
        self.register_buffer(name, zeros, persistent=False)
        self.statistic_names = (*self.statistic_names, name)

    def statistics(self) -> tuple[Tensor, ...]:
        """The buffers of ``statistic_names``."""
        return tuple(getattr(self, name) for name in self.statistic_names)

    def observe(
        self, x_TD: Tensor, probs_TE: Tensor, choices: Choices, asked_E: Tensor, active_T: Tensor | None
    ) -> None:
        """Add what this training pass tells to the statistics, in place. Called without gradients, once for each pass of
        tokens through the gate: not in evaluation, and not again where a backward pass computes it anew.

        asked_E  int64 [E], choices of the active tokens; ``active_T`` bool [T], None for all
        """

    def after_update(self) -> None:
        """Change the router's own buffers, or its parameters in place. Called once after each step of the optimiser: the
        statistics are the sums over all passes of the update, on all ranks, and 0 afterwards. What is done here has to be
        the same on all ranks.
        """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Router:
        """Buffers stay in at least float32 whatever precision the model is cast to: small steps would be lost."""
        before = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)
        for name, buffer in before.items():
            now = getattr(self, name)
            if now.is_floating_point() and now.dtype not in (torch.float32, torch.float64):
                setattr(self, name, buffer.to(now.device))
        return self

    def forward(self, x_TD: Tensor) -> Tensor:
        """The scores; [T, E].

        Raises:
            FloatingPointError: in debug, a probability that is not finite.
        """
        probs_TE = self.scores(x_TD)
        if self.debug:
            self._check(x_TD, probs_TE)
        return probs_TE

    def in_force(self) -> tuple[Selection, Weighting]:
        """Its own selection and weighting, or those of a surrounding ``routing_override``."""
        overrides = _overrides()
        override = None if overrides is None else overrides.get(self)
        if override is None:
            return self.selection, self.weighting
        return override.selection or self.selection, override.weighting or self.weighting

    def _check(self, x_TD: Tensor, probs_TE: Tensor) -> None:
        bad = int((~probs_TE.isfinite()).any(dim=1).sum())
        if bad:
            states = ("not finite", "finite")
            weights_are_finite = all(bool(weight.isfinite().all()) for weight in self.parameters())
            raise FloatingPointError(
                f"{self.where}: probabilities of {bad} of {probs_TE.size(0)} tokens are not finite; "
                f"the gate's input is {states[bool(x_TD.isfinite().all())]}, "
                f"its weights are {states[weights_are_finite]}"
            )


def least_choices(router: Router) -> int:
    """Experts that each token chooses at a gate, at least, as its routing is in force now."""
    return int(getattr(router.in_force()[0], "k", 1))


def routers_of(module: nn.Module) -> list[Router]:
    """The routers of a block or model, in their order."""
    return [one for one in module.modules() if isinstance(one, Router)]


#: Number of experts that it sees -> a router, with whatever selection and weighting it has.
MakeRouter = Callable[[int], Router]


def at_least_float32(x: Tensor) -> Tensor:
    """``x`` itself in float32 or float64, else its float32 copy."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def count_leads(lead_T: Tensor, experts: int, active_T: Tensor | None = None) -> Tensor:
    """Tokens (active_T bool [T], None for all) that each expert leads; int64 [E].

    By comparison: ``bincount`` would read its largest value back from the device.
    """
    chosen_TE = lead_T[:, None] == torch.arange(experts, device=lead_T.device)
    if active_T is not None:
        chosen_TE = chosen_TE & active_T[:, None]
    return chosen_TE.sum(dim=0)


def combine_weights(
    probs_TE: Tensor,
    choices_TK: Tensor,
    kept_TK: Tensor | None,
    weighting: Weighting = Weighting.RENORMALISED,
    complete: bool = True,
) -> Tensor:
    """Weight of each choice in y = sum_e G_e FFN_e(x) (eq. 6); 0 where there is none or it was dropped; [T, K].

    With two choices GShard renormalises over those that survived the capacity limit. With one, G_e is used as it is (RAW):
    renormalised it would be 1, and the gate would get no gradient.

    kept_TK   bool [T, K], None: all; False wherever choices_TK names no expert
    complete  there is no such place
    """
    if weighting in (Weighting.UNIFORM, Weighting.ONE):
        served_TK = probs_TE.new_ones(choices_TK.shape) if kept_TK is None else kept_TK.to(probs_TE.dtype)
        return served_TK if weighting is Weighting.ONE else served_TK / served_TK.sum(dim=1, keepdim=True).clamp(min=1)
    weights_TK = probs_TE.gather(1, choices_TK if complete else choices_TK.clamp(max=probs_TE.size(1) - 1))
    if kept_TK is not None:
        weights_TK = weights_TK * kept_TK
    if weighting is Weighting.RAW:
        return weights_TK
    total_T1 = weights_TK.sum(dim=1, keepdim=True)
    return weights_TK / total_T1.clamp(min=torch.finfo(weights_TK.dtype).eps)
