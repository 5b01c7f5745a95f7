"""Vanilla MoE (paper: section 4): one gate over E FFNs, GShard's top-2 by default. Also the layer that others are made of."""

from __future__ import annotations

from typing import TypedDict

import torch
from torch import Tensor

from smoe_mt.moe.block import MoEBlock, Routing
from smoe_mt.moe.experts.base import BoundExperts, ExpertBank
from smoe_mt.moe.experts.ffn import experts_or
from smoe_mt.moe.kernels.fused import BlockParts, check_sizes, fused_pass, may_fuse
from smoe_mt.moe.kernels.select import bind_experts, check_backend
from smoe_mt.moe.routed import ExpertOutputMask, RoutedOptions, RoutedOutput, empty_load, routed, unit_sizes
from smoe_mt.moe.routers.base import MakeRouter, Selection, Weighting, least_choices
from smoe_mt.moe.routers.bias import LoadBias
from smoe_mt.moe.routers.gate import gate_or
from smoe_mt.moe.routers.top_k import TopK
from smoe_mt.moe.system import BlockPlace, ModelSettings, System, common_settings
from smoe_mt.moe.traversal import GateOutput, traverse


class MoESettings(TypedDict, total=False):
    """The settings of ``MoE`` besides its sizes and top_k, for blocks that are made of such layers."""

    capacity_factor: float
    variant: str
    dropout: float
    activation: str
    backend: str
    eom_p: float
    second_choice: str
    debug: bool
    selection: Selection | None
    weighting: Weighting | None
    experts: ExpertBank | None
    router: MakeRouter | None
    gate_bias: bool
    load_bias: LoadBias | None


class MoE(MoEBlock):
    """One gate over ``num_experts`` experts; norm, dropout and residual around it belong to the transformer layer.

    top_k            2: GShard, 1: Switch; any other number
    capacity_factor  slots an expert serves in training, times T / E; 0 drops nothing. Evaluation drops nothing.
    variant          "paper", or "release": capacity factor * ceil(T / E) (Switch: factor 1), dropout inside the experts
    backend          "auto", "loop", "grouped" or "triton": see ``kernels.select``
    eom_p            expert output masking (EOM); 0: none
    second_choice    "argmax", or "gumbel": drawn with noise in training and evaluation, as the released code does
    debug            a gate with probabilities that are not finite raises FloatingPointError
    selection        in place of ``top_k`` and ``second_choice``
    weighting        None: the gate's probability for one choice, renormalised over the served ones for more
    experts          a bank in place of ``num_experts`` FFNs of ``ffn_dim`` hidden units
    router           number of experts -> a router in place of the softmax gate, its selection and its weighting
    gate_bias        the softmax gate has a bias
    load_bias        balance the load of the experts by biases that change after each update; None: do not

    Parameters: ``gate.weight`` [E, D], ``gate.bias`` [E] if it has one, and those of ``experts``.

    Raises:
        ValueError: settings that make no sense, each named.
    """

    def __init__(
        self,
        embed_dim: int,
        ffn_dim: int,
        num_experts: int,
        top_k: int = 2,
        capacity_factor: float = 2.0,
        variant: str = "paper",
        dropout: float = 0.0,
        activation: str = "relu",
        backend: str = "auto",
        eom_p: float = 0.0,
        second_choice: str = "argmax",
        debug: bool = False,
        selection: Selection | None = None,
        weighting: Weighting | None = None,
        experts: ExpertBank | None = None,
        router: MakeRouter | None = None,
        gate_bias: bool = False,
        load_bias: LoadBias | None = None,
    ) -> None:
        super().__init__()
        check_backend(backend)
        self.backend = backend
        selection = TopK(top_k, second_choice) if selection is None else selection
        self.settings = RoutedOptions(capacity_factor, variant, dropout if variant == "release" else 0.0)
        self.mask = ExpertOutputMask(eom_p)
        self.experts = experts_or(experts, num_experts, embed_dim, ffn_dim, activation)
        self.unit_sizes = unit_sizes(self.experts)
        weighting = default_weighting(top_k) if weighting is None else weighting
        self.gate = gate_or(
            router, embed_dim, num_experts, selection, weighting, "the gate", debug, gate_bias, load_bias
        )
        check_sizes(self.parts, backend)

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> tuple[Tensor, Routing]:
        """x float [..., D]; padding_mask bool [...], True = padding, or None. Returns (y, routing), y 0 at padding."""
        fused = self._fused(x, padding_mask) if may_fuse(x, self.backend) else None
        if fused is not None:
            return fused
        dropout = self.settings.expert_dropout if self.training else 0.0
        bound = bind_experts(self.experts, x, self.backend, dropout, least_choices(self.gate))

        def gate(_gate: int, x_TD: Tensor, active_T: Tensor | None) -> GateOutput:
            out = self._routed(x_TD, active_T, bound)
            return GateOutput(out.y_TD, torch.ones_like(out.lead_T), out)

        padding_N = None if padding_mask is None else padding_mask.reshape(-1)
        x_ND = x.reshape(-1, x.size(-1))
        done = traverse(x_ND, padding_N, 1, gate, bound, self.training)
        y_ND = done.x_ND if padding_N is None else done.x_ND.masked_fill(padding_N[:, None], 0.0)
        (out,) = done.passes
        visits = done.visits_N.view(x.shape[:-1])
        units = done.units.view(visits.shape) if isinstance(done.units, Tensor) else done.units
        if out is None:
            zero = torch.zeros((), device=x.device)
            losses = dict.fromkeys(self.gate.loss_names, zero)
            measures = (dict.fromkeys(self.gate.measure_names, zero),)
            load = (empty_load(self.gate, x.device),)
            return y_ND.view_as(x), Routing(losses, visits, load, (zero,), units, measures=measures)
        told = out.told
        if told is None:
            return y_ND.view_as(x), Routing({}, visits, (), (), units)
        routing = Routing(told.losses, visits, (told.load,), (told.entropy,), units, measures=(told.measures,))
        return y_ND.view_as(x), routing

    @property
    def parts(self) -> BlockParts:
        """As a kernel for whole blocks sees it."""
        return BlockParts(self.experts, [self.gate], (0,), self.settings, self.mask)

    def _fused(self, x: Tensor, padding_mask: Tensor | None) -> tuple[Tensor, Routing] | None:
        """The whole pass by one kernel; None where there is none for this block."""
        return fused_pass(self.parts, x, padding_mask, self.backend)

    def _routed(self, x_TD: Tensor, active_T: Tensor | None, bound: BoundExperts) -> RoutedOutput:
        """The tokens at the gate through it and the experts."""
        return routed(x_TD, active_T, self.gate, bound, 0, self.unit_sizes, self.mask, self.settings)


def default_weighting(top_k: int) -> Weighting:
    """GShard renormalises; with one choice that would leave the gate without a gradient."""
    return Weighting.RAW if top_k == 1 else Weighting.RENORMALISED


def _build(cfg: ModelSettings, place: BlockPlace) -> MoE:
    return MoE(num_experts=place.num_experts, **common_settings(cfg, place))


SYSTEM = System(
    name="vanilla",
    title="mixture of experts, top-2 (GShard)",
    build=_build,
    rows_per_token=lambda cfg, groups: (cfg.top_k,),
    row_name=lambda cfg: f"vanilla_{cfg['num_experts']}" if cfg.get("num_experts") == 32 else "vanilla",
    rows_vary=False,
)
