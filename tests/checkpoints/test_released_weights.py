"""The names of the released code's blocks, checked by what the blocks then compute: vectors of the released code."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from smoe_mt.checkpoints.released_weights import Block, block_from_released, released_blocks
from smoe_mt.errors import UserError
from smoe_mt.models.blocks import build_block
from smoe_mt.moe import BlockPlace

GOLDEN = Path(__file__).parents[1] / "moe" / "golden"
CASES = [path.stem for path in sorted(GOLDEN.glob("*.json")) if path.stem != "eom_train"]  # its mask is drawn


def tensor(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.double)


def released_layer(case: dict[str, Any]) -> dict[str, Tensor]:
    """The FFN half of a layer as the released code names it."""
    weights = case["weights"]
    first, *others = weights["norms"]
    layer = {f"final_layer_norm.{leaf}": tensor(first[leaf]) for leaf in ("weight", "bias")}
    for i, norm in enumerate(others):
        layer |= {f"hmoe_layernorms.{i}.{leaf}": tensor(norm[leaf]) for leaf in ("weight", "bias")}
    for i, gate in enumerate(weights["gates"]):
        layer[f"moe_layer.gate.{i}.wg.weight" if others else "moe_layer.gate.wg.weight"] = tensor(gate)
    for name, stacked in weights["experts"].items():
        layer |= {f"moe_layer.experts.{e}.{name}": tensor(one) for e, one in enumerate(stacked)}
    if "cmr_gate" in weights:
        layer |= {name: tensor(values) for name, values in weights["shared_ffn"].items()}
        layer["cmr_layer.gate.wg.weight"] = tensor([weights["cmr_gate"]["weight"]])
        layer["cmr_layer.gate.wg.bias"] = tensor([weights["cmr_gate"]["bias"]])
    return layer


def build(case: dict[str, Any], block: Block) -> nn.Module:
    """Our block, as the settings say that the mapping found."""
    config = case["config"]
    settings = Namespace(
        moe="switch" if config["top_k"] == 1 else "eom" if config["kind"] == "eom" else block.moe,
        strata=",".join(map(str, block.strata)),
        num_experts=sum(block.strata),
        top_k=config["top_k"],
        capacity_factor=None,
        variant="release",
        dropout=0.0,
        activation_fn="relu",
        moe_backend="loop",
        eom_p=None,
        second_choice="argmax",
        moe_debug=False,
        gate_bias=False,
        cmr_gate_dropout=0.0,
        moe_freq=1,
        encoder=Namespace(embed_dim=8, ffn_embed_dim=16),
        places={"encoder": (BlockPlace("encoder", 1, 8, 16, block.strata),)},
    )
    built = build_block(settings, "encoder", 1).double()
    built.load_state_dict({name.removeprefix("block."): one for name, one in block.weights.items()})
    return built.train(config["training"])


@pytest.mark.parametrize("name", CASES)
def test_a_mapped_block_computes_what_the_released_code_does(name: str) -> None:
    case = json.loads((GOLDEN / f"{name}.json").read_text())
    block = block_from_released(released_layer(case))
    y, _ = build(case, block)(tensor(case["x"]))
    torch.testing.assert_close(y, tensor(case["expected"]["y"]), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "moe", "strata"),
    [("smoe_1_3_train", "stratified", (1, 3)), ("cmr_train", "cmr", (4,)), ("vanilla_top2_train", "vanilla", (6,))],
)
def test_kind_and_strata_are_seen_in_the_weights(name: str, moe: str, strata: tuple[int, ...]) -> None:
    block = block_from_released(released_layer(json.loads((GOLDEN / f"{name}.json").read_text())))
    assert (block.moe, block.strata) == (moe, strata)


def model_with(layer: dict[str, Tensor]) -> dict[str, Tensor]:
    """A layer of attention and `layer`, and an embedding."""
    prefixed = {f"encoder.layers.1.{name}": one for name, one in layer.items()}
    outside = {"encoder.embed_tokens.weight": torch.ones(3, 8), "encoder.layers.1.self_attn.k_proj.bias": torch.ones(8)}
    return outside | prefixed | {"encoder.layers.0.fc1.weight": torch.zeros(16, 8)}


def test_what_is_outside_of_blocks_keeps_its_name() -> None:
    layer = released_layer(json.loads((GOLDEN / "smoe_2_2_eval.json").read_text()))
    rest, blocks = released_blocks(model_with(layer))
    assert sorted(rest) == [
        "encoder.embed_tokens.weight",
        "encoder.layers.0.fc1.weight",
        "encoder.layers.1.self_attn.k_proj.bias",
    ]
    assert list(blocks) == ["encoder.layers.1"]


def test_conditional_layers_repeat_the_names_of_their_experts() -> None:
    """A module that is registered twice has each weight under two names."""
    layer = released_layer(json.loads((GOLDEN / "cmr_train.json").read_text()))
    repeated = {f"cmr_layer.{name}": one for name, one in layer.items() if name.startswith("moe_layer.")}
    _, blocks = released_blocks(model_with(layer | repeated))
    assert blocks["encoder.layers.1"].moe == "cmr"


@pytest.mark.parametrize(
    "name", ["moe_layer.experts.1.fc2.bias", "moe_layer.gate.1.wg.weight", "hmoe_layernorms.1.bias"]
)
def test_a_missing_weight_is_named(name: str) -> None:
    layer = released_layer(json.loads((GOLDEN / "smoe_2_2_2_2_train.json").read_text()))
    del layer[name]
    with pytest.raises(UserError, match=f"encoder.layers.1: {name} is missing"):
        released_blocks(model_with(layer))


def test_experts_of_too_few_ranks_are_noticed() -> None:
    layer = released_layer(json.loads((GOLDEN / "vanilla_top2_train.json").read_text()))
    layer = {name: one for name, one in layer.items() if ".experts.5." not in name}
    with pytest.raises(UserError, match="one of 6 experts .there are 5. is missing"):
        released_blocks(model_with(layer))
