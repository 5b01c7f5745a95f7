"""The experts of a block as pruning sees them: sets within which experts may be merged, and who has a row for whom."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from smoe_mt.errors import UserError
from smoe_mt.moe import BlockPlace, ExpertBank, Gate, Router, System
from smoe_mt.moe.names import Block, groups_of_blocks, module_of
from smoe_mt.moe.system import STRATA


@dataclass(frozen=True)
class Layout:
    """A block whose experts fall into sets: its strata, its layers in sequence, or the experts of its one gate.

    Only experts of one set are merged: those of another stratum see other tokens and lead elsewhere.

    sizes    experts of each set
    system   whose blocks are nested: one bank has all sets, and gate i sees those from set i on; else each set has its own
    banks    by name in the block
    routers  by name in the block, one for each set
    """

    block: Block
    sizes: tuple[int, ...]
    system: System
    banks: dict[str, ExpertBank]
    routers: dict[str, Router]

    @classmethod
    def of(cls, module: nn.Module, block: Block, sizes: tuple[int, ...], system: System) -> Layout:
        """`module`: the block; its sets have `sizes`."""
        modules = list(module.named_modules())
        banks = {name: one for name, one in modules if isinstance(one, ExpertBank)}
        routers = {name: one for name, one in modules if isinstance(one, Router)}
        return cls(block, sizes, system, banks, routers)

    @property
    def nested(self) -> bool:
        return self.system.nested

    def expert_shapes(self) -> list[dict[str, tuple[int, ...]]]:
        """Of each bank the shapes of what an expert has."""
        return [{name: tuple(stack.shape[1:]) for name, stack in bank.stacks().items()} for bank in self.banks.values()]

    def bank(self, number: int) -> tuple[ExpertBank, range]:
        """The bank of set `number`, and which of its experts they are."""
        banks = list(self.banks.values())
        first = sum(self.sizes[:number]) if self.nested else 0
        return banks[0 if self.nested else number], range(first, first + self.sizes[number])

    def router(self, number: int) -> Router:
        """The gate of set `number`."""
        return list(self.routers.values())[number]

    def name(self, number: int) -> str:
        """As messages name a set."""
        if len(self.sizes) == 1:
            return str(self.block)
        return f"{'stratum' if self.nested else 'layer'} {number + 1} of {self.block}"


def layouts_of(model: Any, where: str) -> tuple[Layout, ...]:
    """Of all MoE blocks of a model. UserError, naming `where`, for one without experts or with experts that cannot be merged."""
    system = model.system
    if system is None:
        raise UserError(f"{where}: a dense model has no experts that could be merged; give a model with --moe")
    found = []
    for block, sizes in groups_of_blocks(model).items():
        layout = Layout.of(module_of(model, block), block, sizes, system)
        if reason := refusal(layout):
            raise UserError(f"{where}: experts of --moe {system.name} cannot be merged: {reason}")
        found.append(layout)
    return tuple(found)


def refusal(layout: Layout) -> str | None:
    """Why the experts of a block cannot be merged; None where they can."""
    sets = len(layout.sizes)
    if len(layout.routers) != sets or len(layout.banks) != (1 if layout.nested else sets):
        return f"{layout.block} has {len(layout.banks)} expert banks and {len(layout.routers)} gates"
    if sum(bank.num_experts for bank in layout.banks.values()) != sum(layout.sizes):
        return "blocks have other numbers of experts than the settings say"
    for bank in layout.banks.values():
        if set(bank.state_dict()) != set(bank.stacks()):
            return f"their weights are made of parts that {type(bank).__name__} shares among them"
        if bank.uniform_size is None:
            return "they have different sizes"
    for router in layout.routers.values():
        if set(router.state_dict()) != set(router.row_names):
            return f"{type(router).__name__} has more than a row for each expert"
    return None


def wanted_sizes(text: str, layouts: Sequence[Layout], system: System) -> tuple[tuple[int, ...], ...]:
    """The experts that are to remain in each set of each block.

    `text`: a number, of each set; a fraction such as 0.5, of each set; or as the model's own setting has it, such as 3,3 (strata)
    or 6,4,4,6 (blocks). UserError for something else, and for more experts than there are.
    """
    sizes = _sizes(text, layouts, system)
    for layout, wanted in zip(layouts, sizes):
        if len(wanted) != len(layout.sizes):
            raise UserError(
                f"--experts {text}: {len(wanted)} numbers, but {layout.block} has strata {_joined(layout.sizes)}"
            )
        for number, (have, want) in enumerate(zip(layout.sizes, wanted)):
            if want > have:
                raise UserError(f"--experts {text}: {layout.name(number)} has {have} experts, so {want} cannot remain")
    return sizes


def _sizes(text: str, layouts: Sequence[Layout], system: System) -> tuple[tuple[int, ...], ...]:
    if "." in text:
        try:
            fraction = float(text)
        except ValueError:
            fraction = -1.0
        if not 0 < fraction <= 1:
            raise UserError(f"--experts {text}: a fraction must be above 0 and at most 1, such as 0.5")
        return tuple(tuple(max(1, math.floor(fraction * size + 0.5)) for size in layout.sizes) for layout in layouts)
    if text.isascii() and text.isdigit() and int(text):
        return tuple((int(text),) * len(layout.sizes) for layout in layouts)
    try:
        return system.groups({system.experts_setting: text}, len(layouts))
    except ValueError as error:
        raise UserError(f"--experts {text}: {error}") from None


def setting_of(sizes: Sequence[Sequence[int]], system: System) -> int | str:
    """The model's setting for these experts of each block: 3,3 or 3,3;4,4 for strata, 6 or 6,4,4,6 for numbers of experts."""
    alike = sizes[:1] if len(set(map(tuple, sizes))) == 1 else sizes
    text = (";" if system.experts_setting == STRATA else ",").join(map(_joined, alike))
    return int(text) if text.isdigit() and system.experts_setting != STRATA else text


def check_biases(layouts: Sequence[Layout]) -> None:
    """UserError where a gate cannot have a bias, as only softmax gates can."""
    for layout in layouts:
        for router in layout.routers.values():
            if type(router) is not Gate:
                raise UserError(
                    f"--gate-bias: {layout.block} has a {type(router).__name__}, and only softmax gates have a bias"
                )


def check_blocks(model: Any, layouts: Sequence[Layout], sizes: Sequence[tuple[int, ...]], text: str) -> None:
    """UserError, naming `--experts text`, where no block can have these numbers, such as fewer experts than a token chooses, or
    has other experts then."""
    for layout, wanted in zip(layouts, sizes):
        side = getattr(model.cfg, layout.block.side)
        place = BlockPlace(layout.block.side, layout.block.layer, side.embed_dim, side.ffn_embed_dim, wanted)
        try:
            with torch.device("meta"):
                built = Layout.of(model.system.build(model.cfg, place), layout.block, wanted, layout.system)
        except ValueError as error:
            raise UserError(f"--experts {text}: {layout.block}: {error}") from None
        if built.expert_shapes() != layout.expert_shapes():
            raise UserError(
                f"--experts {text}: {layout.block}: with these settings, the size of an expert depends on their number"
            )


def _joined(sizes: Sequence[int]) -> str:
    return ",".join(map(str, sizes))
