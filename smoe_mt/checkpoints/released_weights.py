"""Weights of the paper's released code under the names of smoe_mt, block by block.

What the names of a block are was read off the vectors that the released code computed (`tests/moe/golden`), and the mapping is
tested against them. With the prefix ``encoder.layers.1.`` or any other layer's:

    final_layer_norm                      the norm in front of the block
    moe_layer.experts.{e}.fc1, fc2        experts, stratum by stratum
    stratified:  moe_layer.gate.{i}.wg.weight, hmoe_layernorms.{i}      gates; norms 2 to L, and the exit norm
    plain:       moe_layer.gate.wg.weight
    conditional: the same, fc1 and fc2 of the shared FFN, cmr_layer.gate.wg.weight and .bias

Everything outside of the blocks has fairseq's own names on both sides.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from smoe_mt.errors import UserError

EXPERT = re.compile(r"moe_layer\.experts\.(\d+)\.(fc[12]\.(?:weight|bias))")
OURS_OF_EXPERTS = {"fc1.weight": "w_in", "fc1.bias": "b_in", "fc2.weight": "w_out", "fc2.bias": "b_out"}
LAYER = re.compile(r"((?:encoder|decoder)\.layers\.(\d+))\.(.+)")
GATE_OF_STRATUM = re.compile(r"moe_layer\.gate\.(\d+)\.wg\.weight")
REPEATED = "cmr_layer.moe_layer."  # what else the released code calls the weights of moe_layer


@dataclass(frozen=True)
class Block:
    """Weights of a block under our names, without the layer's prefix, and what they show of its settings."""

    weights: dict[str, Tensor]
    moe: str  # stratified, cmr or vanilla; that a plain gate sends to one expert only is not seen in its weights
    strata: tuple[int, ...]  # one, unless stratified


def released_blocks(model: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Block]]:
    """All weights that belong to no block, and the blocks by the prefix of their layer, such as ``encoder.layers.1``.

    Raises:
        UserError: a block without all of its weights.
    """
    layers: dict[str, dict[str, Tensor]] = defaultdict(dict)
    rest: dict[str, Tensor] = {}
    for name, tensor in model.items():
        found = LAYER.fullmatch(name)
        if found:
            layers[found[1]][found[3]] = tensor
        else:
            rest[name] = tensor
    blocks = {}
    for prefix, layer in layers.items():
        layer = {name.removeprefix("cmr_layer.") if name.startswith(REPEATED) else name: t for name, t in layer.items()}
        if any(name.startswith("moe_layer.") for name in layer):
            blocks[prefix], layer = _split(layer, prefix)
        rest.update({f"{prefix}.{name}": tensor for name, tensor in layer.items()})
    return rest, blocks


def _split(layer: dict[str, Tensor], prefix: str) -> tuple[Block, dict[str, Tensor]]:
    attention = {name: tensor for name, tensor in layer.items() if "attn" in name}
    try:
        block = block_from_released({name: tensor for name, tensor in layer.items() if name not in attention})
    except KeyError as error:
        raise UserError(
            f"{prefix}: {error.args[0]} is missing; give all files of the checkpoint, as the released code wrote them"
        ) from error
    return block, attention


def block_from_released(layer: Mapping[str, Tensor]) -> Block:
    """A block from the weights of the FFN half of its layer. KeyError names one that is missing."""
    norm = {leaf: layer[f"final_layer_norm.{leaf}"] for leaf in ("weight", "bias")}
    experts = _experts(layer)
    gates = {int(found[1]): tensor for name, tensor in layer.items() if (found := GATE_OF_STRATUM.fullmatch(name))}
    if gates:
        return _stratified(layer, norm, experts, gates)
    weights = {f"block.norm.{leaf}": tensor for leaf, tensor in norm.items()}
    _check_count(layer["moe_layer.gate.wg.weight"], experts)
    plain = {"gate.weight": layer["moe_layer.gate.wg.weight"]} | {f"experts.{name}": t for name, t in experts.items()}
    strata = (experts["w_in"].size(0),)
    if "cmr_layer.gate.wg.weight" not in layer:
        return Block(weights | {f"block.moe.{name}": tensor for name, tensor in plain.items()}, "vanilla", strata)
    weights |= {f"block.moe.moe.{name}": tensor for name, tensor in plain.items()}
    for name in OURS_OF_EXPERTS:
        weights[f"block.moe.{name}"] = layer[name]
    weights["block.moe.mix.weight"] = layer["cmr_layer.gate.wg.weight"].reshape(1, -1)
    weights["block.moe.mix.bias"] = layer["cmr_layer.gate.wg.bias"].reshape(1)
    return Block(weights, "cmr", strata)


def _experts(layer: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found: dict[str, dict[int, Tensor]] = defaultdict(dict)
    for name, tensor in layer.items():
        expert = EXPERT.fullmatch(name)
        if expert:
            found[OURS_OF_EXPERTS[expert[2]]][int(expert[1])] = tensor
    numbers = range(max((max(some) for some in found.values()), default=-1) + 1)
    stacked = {}
    for theirs, ours in OURS_OF_EXPERTS.items():
        for number in numbers or (0,):
            if number not in found[ours]:
                raise KeyError(f"moe_layer.experts.{number}.{theirs}")
        stacked[ours] = torch.stack([found[ours][number] for number in numbers])
    return stacked


def _check_count(gate: Tensor, experts: Mapping[str, Tensor]) -> None:
    if gate.size(0) != experts["w_in"].size(0):
        raise KeyError(f"one of {gate.size(0)} experts (there are {experts['w_in'].size(0)})")


def _stratified(
    layer: Mapping[str, Tensor], norm: dict[str, Tensor], experts: dict[str, Tensor], gates: dict[int, Tensor]
) -> Block:
    """Gate i sees the experts of stratum i and later: its rows say how many there are."""
    weights = {f"block.experts.{name}": tensor for name, tensor in experts.items()}
    weights |= {f"block.norms.0.{leaf}": tensor for leaf, tensor in norm.items()}
    for i in range(len(gates)):
        if i not in gates:
            raise KeyError(f"moe_layer.gate.{i}.wg.weight")
        weights[f"block.gates.{i}.weight"] = gates[i]
        for leaf in ("weight", "bias"):
            weights[f"block.norms.{i + 1}.{leaf}"] = layer[f"hmoe_layernorms.{i}.{leaf}"]
    visible = [gates[i].size(0) for i in range(len(gates))] + [0]
    _check_count(gates[0], experts)
    return Block(weights, "stratified", tuple(some - later for some, later in pairwise(visible)))
