"""From the weights of a dense model to those of one whose FFNs are cut into experts, and back, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smoe_mt.checkpoints.sharded import OPTIMISER, SHARDS
from smoe_mt.errors import UserError
from smoe_mt.models.config import SMoETransformerConfig
from smoe_mt.moe.names import Block
from smoe_mt.moe.registry import DENSE
from smoe_mt.moe.systems.moefied import SYSTEM, UNITS

FFN = ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias")
NORM = {f"final_layer_norm.{leaf}": f"block.norm.{leaf}" for leaf in ("weight", "bias")}
BANK, GATE = "block.moe.experts.", "block.moe.gate."
B_OUT = f"{BANK}shared.b_out"
#: Settings of the model that a dense one does not read, and what they are of one that is cut.
MEANINGLESS = {
    "moe_freq": 1,
    "variant": "paper",
    "eom_p": None,
    "capacity_factor": None,
    "shared_experts": 0,
    "balance_bias": 0.0,
    "gate_bias": False,
    "init_experts_from": None,
}
DEFAULTS = {each.name: each.default for each in fields(SMoETransformerConfig)}


@dataclass(frozen=True)
class Cut:
    """How one FFN is cut: the units of each expert, int64 [E, F / E], and the weights of its selector by name."""

    units: Tensor
    selector: Mapping[str, Tensor]


def cut_state(state: Mapping[str, Any], cuts: Mapping[Block, Cut], choose: float, select: str) -> dict[str, Any]:
    """A checkpoint of a dense model as one of the system moefied, without the state of an optimiser."""
    weights: dict[str, Tensor] = dict(state["model"])
    for name, cut in cuts.items():
        layer = f"{name}."
        w_in, b_in, w_out, b_out = (weights.pop(layer + leaf) for leaf in FFN)
        made = {f"{BANK}w_in": w_in[cut.units], f"{BANK}b_in": b_in[cut.units], B_OUT: b_out}
        made[f"{BANK}w_out"] = w_out[:, cut.units].transpose(0, 1).contiguous()
        made[f"{BANK}{UNITS}"] = cut.units
        made |= {GATE + leaf: weight.to(w_in.dtype) for leaf, weight in cut.selector.items()}
        made |= {new: weights.pop(layer + old) for old, new in NORM.items()}
        weights |= {layer + leaf: weight for leaf, weight in made.items()}
    experts = [len(cut.units) for cut in cuts.values()]
    settings = {
        **MEANINGLESS,
        "moe": SYSTEM.name,
        "num_experts": experts[0] if len(set(experts)) == 1 else experts,
        "moefied_choose": choose,
        "moefied_select": select,
    }
    return _with(state, weights, settings)


def merged_state(state: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """A checkpoint of the system moefied as that of the dense model that it was cut from.

    Raises:
        UserError: another system, or weights that are no slices of an FFN.
    """
    model = state["cfg"]["model"]
    if model.get("moe") != SYSTEM.name:
        raise UserError(
            f"{path}: its system is {model.get('moe')}, and --merge puts those of {SYSTEM.name} together again"
        )
    if model.get("moe_freq") != 1:
        raise UserError(f"{path}: not every layer has a block of {SYSTEM.name}, so it was not cut from a dense model")
    weights: dict[str, Tensor] = dict(state["model"])
    for layer in [name.removesuffix(B_OUT) for name in weights if name.endswith(f".{B_OUT}")]:
        try:
            made = _merged(weights, layer, model[f"{layer.partition('.')[0]}_ffn_embed_dim"])
        except (KeyError, ValueError, IndexError) as error:
            raise UserError(f"{path}: the experts of {layer[:-1]} are no slices of an FFN ({error})") from None
        weights = {name: weight for name, weight in weights.items() if not name.startswith(f"{layer}block.")} | made
    names = ("moe", "num_experts", "moefied_choose", "moefied_select", *MEANINGLESS)
    return _with(state, weights, {**{name: DEFAULTS[name] for name in names}, "moe": DENSE})


def _merged(weights: Mapping[str, Tensor], layer: str, ffn_dim: int) -> dict[str, Tensor]:
    units = weights[f"{layer}{BANK}{UNITS}"].flatten()
    if not units.sort().values.equal(torch.arange(ffn_dim)):
        raise ValueError(f"they do not hold each of {ffn_dim} hidden units once")
    w_in, b_in, w_out = (weights[f"{layer}{BANK}{leaf}"] for leaf in ("w_in", "b_in", "w_out"))
    place = units.argsort()  # where each unit of the dense FFN is now
    ffn = (
        w_in.flatten(0, 1)[place],
        b_in.flatten()[place],
        w_out.transpose(0, 1).flatten(1)[:, place],
        weights[f"{layer}{B_OUT}"],
    )
    made = {layer + leaf: weight for leaf, weight in zip(FFN, ffn)}
    return made | {layer + old: weights[layer + new] for old, new in NORM.items()}


def _with(state: Mapping[str, Any], weights: Mapping[str, Tensor], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The checkpoint with other weights and settings: without what belonged to the old ones."""
    extra = {name: value for name, value in (state.get("extra_state") or {}).items() if name == "train_iterator"}
    return {
        **{key: value for key, value in state.items() if key not in (OPTIMISER, SHARDS)},
        "cfg": {**state["cfg"], "model": {**state["cfg"]["model"], **settings}},
        "model": dict(weights),
        "extra_state": {**extra, "val_loss": None},
    }
