"""The record that describes a system. ``systems/`` has one file for each system, ``registry.py`` finds them by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from torch import Tensor

from smoe_mt.errors import UserError
from smoe_mt.moe.block import MoEBlock, Routing
from smoe_mt.moe.routers.bias import LoadBias
from smoe_mt.moe.strata import experts_of_blocks, strata_of_blocks

#: Settings of the model that say how many experts a block has.
NUM_EXPERTS, STRATA = "num_experts", "strata"

#: The model's settings, by attribute: those that all systems share, and those of ``System.options``.
ModelSettings = Any


@dataclass(frozen=True)
class BlockPlace:
    """Where a block stands in the model.

    side    "encoder" or "decoder"
    layer   number of its layer there, from 1
    groups  its experts: of each stratum or layer, or of its one gate
    units   hidden units of an expert, where ``System.resize`` chose them; 0: the block decides
    """

    side: str
    layer: int
    embed_dim: int
    ffn_dim: int
    groups: tuple[int, ...]
    units: int = 0

    @property
    def strata(self) -> tuple[int, ...]:
        """For systems whose ``experts_setting`` is STRATA."""
        return self.groups

    @property
    def num_experts(self) -> int:
        """For the others."""
        (experts,) = self.groups
        return experts


@dataclass(frozen=True)
class ModelLoss:
    """What a loss over all blocks of a model amounts to: scalars by name, to be weighted, and what is only logged."""

    losses: Mapping[str, Tensor]
    logged: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class System:
    """A kind of MoE model. Every part of the project asks this record.

    name             value of ``--moe``
    title            in words, for model cards
    build            (settings, place) -> the block
    rows_per_token   (settings, groups) -> rows a token, under uniform routing, of each expert bank of a block, in their order
    row_name         (settings as a mapping) -> name of its file in ``configs/model``
    figure_title     groups -> how figures name the model; None: name and number of experts
    options          a dataclass: settings of the model that this system alone has. The metadata of a field: ``help``; ``range``
                     (least, most; then whether each is left out itself), of every number;
                     ``training_only``: a model's outputs in evaluation do not depend on it. ``Literal`` for choices.
    loss_weights     named losses of its blocks besides "balance" -> default of the criterion's setting NAME_weight
    loss_options     a dataclass: settings of the criterion for ``model_loss``; NAME_weight weighs the loss called NAME.
                     Metadata: ``help``, ``range``
    model_loss       (routing of all blocks, settings of the criterion) -> what no single block can compute
    dense_ffns       FFNs of the layer's size that every token passes besides the experts, or (settings, place, rows of a token
                     in the block's banks) -> as many as cost what else every token passes
    resize           (settings, place) -> the place with the experts that the block gets in place of those that the settings
                     say; None: they stay. Raises ValueError for settings that make no sense
    sub_tokens       settings -> the parts of a token that walk through a block on their own: each makes visits
    experts_setting  NUM_EXPERTS: one gate; STRATA: one for each entry
    nested           gate i sees the experts of all later strata
    rows_vary        the rows of a token depend on what the gates decide
    ignores          shared settings that it does not read
    defaults         of shared settings that are unset (None), what it takes

    Raises:
        UserError: a name that is no flag's value, an unknown ``experts_setting``, or an option that is a number without a range.
    """

    name: str
    title: str
    build: Callable[[ModelSettings, BlockPlace], MoEBlock]
    rows_per_token: Callable[[ModelSettings, tuple[int, ...]], tuple[float, ...]]
    row_name: Callable[[Mapping[str, Any]], str]
    figure_title: Callable[[tuple[int, ...]], str] | None = None
    options: type | None = None
    loss_weights: Mapping[str, float] = field(default_factory=dict)
    loss_options: type | None = None
    model_loss: Callable[[Sequence[Routing], Any], ModelLoss] | None = None
    dense_ffns: float | Callable[[ModelSettings, BlockPlace, float], float] = 0
    resize: Callable[[Mapping[str, Any], BlockPlace], BlockPlace] | None = None
    sub_tokens: Callable[[Mapping[str, Any]], int] = lambda settings: 1
    experts_setting: str = NUM_EXPERTS
    nested: bool = False
    rows_vary: bool = True
    ignores: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not re.fullmatch("[a-z][a-z0-9_]*", self.name):
            raise UserError(f"system {self.name!r}: a name has small letters, digits and underscores alone")
        if self.experts_setting not in (NUM_EXPERTS, STRATA):
            raise UserError(
                f"system {self.name!r}: experts_setting is {NUM_EXPERTS!r} or {STRATA!r}, not {self.experts_setting!r}"
            )
        for options in filter(None, (self.options, self.loss_options)):
            for each in fields(options):
                if type(each.default) in (int, float) and "range" not in each.metadata:
                    raise UserError(
                        f"system {self.name!r}: option {each.name} is a number and needs a range in its metadata"
                    )

    def groups(self, settings: Mapping[str, Any], blocks: int) -> tuple[tuple[int, ...], ...]:
        """The experts of each block of a model: of each stratum or layer, or of the one gate.

        Raises:
            ValueError: numbers that make no sense, or do not fit the number of blocks.
        """
        if self.experts_setting == STRATA:
            return strata_of_blocks(settings[STRATA], blocks)
        return tuple((experts,) for experts in experts_of_blocks(settings[NUM_EXPERTS], blocks))

    def dense_ffns_of(self, settings: ModelSettings, place: BlockPlace, rows: float) -> float:
        """``dense_ffns`` of a block at ``place`` in which a token takes ``rows`` rows of its banks."""
        return self.dense_ffns(settings, place, rows) if callable(self.dense_ffns) else self.dense_ffns

    def title_in_figures(self, groups: tuple[int, ...]) -> str:
        """Such as SMoE-4-12."""
        if self.figure_title is not None:
            return self.figure_title(groups)
        return f"{self.name}, {sum(groups)} experts"


def common_settings(cfg: ModelSettings, place: BlockPlace, eom_p: float = 0.0) -> dict[str, Any]:
    """Arguments that ``MoE`` and the blocks made of it share; ``eom_p``: where it is unset."""
    return {
        "embed_dim": place.embed_dim,
        "ffn_dim": place.ffn_dim,
        "top_k": cfg.top_k,
        "capacity_factor": 2.0 if cfg.capacity_factor is None else cfg.capacity_factor,
        "variant": cfg.variant,
        "dropout": cfg.dropout,
        "activation": cfg.activation_fn,
        "backend": cfg.moe_backend,
        "eom_p": eom_p if cfg.eom_p is None else cfg.eom_p,
        "second_choice": cfg.second_choice,
        "debug": cfg.moe_debug,
        "gate_bias": cfg.gate_bias,
        "load_bias": LoadBias(cfg.balance_bias, cfg.balance_within) if getattr(cfg, "balance_bias", 0) else None,
    }
