"""How large a model is: parameters, those of experts, and those that process a token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from smoe_mt.models.smoe_transformer import SMoETransformerModel
from smoe_mt.moe.experts.base import ExpertBank
from smoe_mt.moe.names import Block, module_of
from smoe_mt.moe.shared import SharedExperts
from smoe_mt.moe.strata import expected_rows

#: Mean hidden units of a token in each block of a side, by "encoder" and "decoder".
Units = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class BankUse:
    """An expert bank of a block, and the rows of a token in each of its experts under uniform routing."""

    bank: ExpertBank
    groups: tuple[int, ...]
    rows: tuple[float, ...]

    @property
    def flops(self) -> float:
        """Of a token."""
        return sum(rows * flops for rows, flops in zip(self.rows, self.bank.flops_per_row(), strict=True))

    @property
    def units(self) -> float:
        """Hidden units that a token asks for."""
        return sum(rows * size for rows, size in zip(self.rows, self.bank.hidden_sizes, strict=True))


def banks_of(model: SMoETransformerModel) -> dict[str, tuple[tuple[BankUse, ...], ...]]:
    """By side, of each block its banks, in their order."""
    found: dict[str, tuple[tuple[BankUse, ...], ...]] = {}
    for side, layers in model.moe_layers.items():
        blocks = [module_of(model, Block(side, number)) for number in layers]
        found[side] = tuple(_banks(model, block, groups) for block, groups in zip(blocks, model.cfg.groups[side]))
    return found


def shared_units_of(model: SMoETransformerModel) -> dict[str, tuple[int, ...]]:
    """By side, of each block the hidden units of its shared experts (``moe.shared``): every token passes them."""
    return {
        side: tuple(
            sum(
                module.units
                for module in module_of(model, Block(side, number)).modules()
                if isinstance(module, SharedExperts)
            )
            for number in layers
        )
        for side, layers in model.moe_layers.items()
    }


def _banks(model: SMoETransformerModel, block: nn.Module, groups: tuple[int, ...]) -> tuple[BankUse, ...]:
    banks = [module for module in block.modules() if isinstance(module, ExpertBank)]
    system = model.system
    assert system is not None
    parts = [(size,) for size in groups] if len(banks) > 1 else [groups]
    rows = system.rows_per_token(model.cfg, groups)
    return tuple(
        BankUse(bank, part, _rows_of_experts(model, bank, part, each))
        for bank, part, each in zip(banks, parts, rows, strict=True)
    )


def _rows_of_experts(
    model: SMoETransformerModel, bank: ExpertBank, groups: tuple[int, ...], rows: float
) -> tuple[float, ...]:
    """The rows of a token in each expert of a bank, ``rows`` together: of later strata, more gates see them."""
    system = model.system
    assert system is not None
    if not system.nested:
        return (rows / bank.num_experts,) * bank.num_experts
    each = expected_rows(groups, lambda visible: system.rows_per_token(model.cfg, (visible,))[0])
    return tuple(one * rows / sum(each) for one in each)


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """(all, those of experts), over all ranks: tied ones count once, an expert on another rank too."""
    banks = [module for module in model.modules() if isinstance(module, ExpertBank)]
    here = sum(p.numel() for bank in banks for p in bank.parameters())
    elsewhere = sum(
        parameters
        for bank in banks
        for e, parameters in enumerate(bank.parameters_of_experts())
        if bank.local_experts is not None and e not in bank.local_experts
    )
    return sum(p.numel() for p in model.parameters()) + elsewhere, here + elsewhere


def activated_parameters(model: SMoETransformerModel, units: Units | None = None) -> int:
    """Weights that take part in a token's forward pass: all of them, of experts those of the hidden units that it asks for.

    Experts that several visits or sub-tokens of a token ask for count each time, but a block never for more than it has.

    `units`: measured ones (``Routing.units``), None for uniform routing. The embedding counts whole, for it is also the output
    projection.
    """
    total = float(count_parameters(model)[0])
    beside = shared_units_of(model)
    for side, blocks in banks_of(model).items():
        measured = list(units[side]) if units else [None] * len(blocks)
        for block, each, shared in zip(blocks, measured, beside[side], strict=True):
            own = sum(sum(use.bank.parameters_of_experts()) for use in block)
            hidden = sum(sum(use.bank.hidden_sizes) for use in block)
            expected = sum(use.units for use in block)
            total -= own * max(0.0, 1 - (expected if each is None else each - shared) / hidden)
    return round(total)
