"""Weights of a dense model cut into experts: the same function, and the same bits when they are merged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from smoe_mt.checkpoints.reading import read_checkpoint
from smoe_mt.checkpoints.writing import write
from smoe_mt.errors import UserError
from smoe_mt.generation.checkpoint import load_model
from smoe_mt.moe.names import Block
from smoe_mt.moefication.partition import random_groups
from smoe_mt.moefication.weights import Cut, cut_state, merged_state

UNITS, EXPERTS, DIM = 24, 6, 16
NAMES = tuple(Block(side, layer) for side in ("encoder", "decoder") for layer in (1, 2))


def cuts() -> dict[Block, Cut]:
    selector = {"w_1": torch.randn(EXPERTS, DIM), "w_2": torch.eye(EXPERTS)}
    return {
        name: Cut(torch.from_numpy(random_groups(UNITS, EXPERTS, seed)), selector) for seed, name in enumerate(NAMES)
    }


def logits(path: Path, dtype: torch.dtype = torch.double) -> Tensor:
    loaded = load_model(path, device="cpu")
    model = loaded.model.to(dtype)
    source = torch.tensor([[5, 6, 7, 8, 2], [9, 5, 2, 1, 1]])  # 1: padding
    output: Tensor = model(source, torch.tensor([5, 3]), torch.tensor([[2, 6, 7], [2, 9, 8]]))[0]
    return output.detach()


def test_all_experts_compute_what_the_dense_model_computes(dense: Path, tmp_path: Path) -> None:
    write(cut_state(read_checkpoint(dense), cuts(), 1.0, "mlp"), tmp_path / "cut.pt")
    torch.testing.assert_close(logits(tmp_path / "cut.pt"), logits(dense), rtol=0, atol=1e-12)
    write(cut_state(read_checkpoint(dense), cuts(), 0.2, "mlp"), tmp_path / "few.pt")
    assert (logits(tmp_path / "few.pt") - logits(dense)).abs().max() > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merged_it_is_the_original_bit_for_bit(dense: Path, dtype: torch.dtype) -> None:
    state = read_checkpoint(dense)
    state["model"] = {
        name: weight.to(dtype) if weight.is_floating_point() else weight for name, weight in state["model"].items()
    }
    state["last_optimizer_state"] = {"state": torch.zeros(3)}
    cut = cut_state(state, cuts(), 0.3, "similarity")
    back = merged_state(cut, dense)
    assert back["model"].keys() == state["model"].keys()
    for name, weight in state["model"].items():
        assert back["model"][name].equal(weight) and back["model"][name].dtype is weight.dtype, name
    assert back["cfg"] == state["cfg"]
    assert "last_optimizer_state" not in cut and cut["optimizer_history"] == state["optimizer_history"]


def test_settings_of_experts_that_a_dense_model_does_not_read_do_not_reach_the_cut_one(
    dense: Path, tmp_path: Path
) -> None:
    state = read_checkpoint(dense)
    state["cfg"]["model"] |= {"eom_p": 0.5, "shared_experts": 2, "gate_bias": True, "variant": "release"}
    state["cfg"]["model"] |= {"capacity_factor": 1.0, "balance_bias": 0.001, "moe_freq": 2}
    write(cut_state(state, cuts(), 1.0, "mlp"), tmp_path / "cut.pt")
    torch.testing.assert_close(logits(tmp_path / "cut.pt"), logits(dense), rtol=0, atol=1e-12)


def test_biases_move_with_their_units(dense: Path) -> None:
    state, made = read_checkpoint(dense), cuts()
    weights = cut_state(state, made, 0.3, "mlp")["model"]
    for name, cut in made.items():
        bank = f"{name}.block.moe.experts."
        for e, units in enumerate(cut.units):
            assert weights[f"{bank}w_in"][e].equal(state["model"][f"{name}.fc1.weight"][units])
            assert weights[f"{bank}b_in"][e].equal(state["model"][f"{name}.fc1.bias"][units])
            assert weights[f"{bank}w_out"][e].equal(state["model"][f"{name}.fc2.weight"][:, units])
        assert weights[f"{bank}shared.b_out"].equal(state["model"][f"{name}.fc2.bias"])


def twice(state: dict[str, Any]) -> None:
    units = state["model"]["encoder.layers.1.block.moe.experts.shared.units"]
    state["model"]["encoder.layers.1.block.moe.experts.shared.units"] = units.clone().fill_(3)


def lost(state: dict[str, Any]) -> None:
    state["model"].pop("decoder.layers.0.block.norm.weight")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (twice, "experts of encoder.layers.1 are no slices of an FFN .*24 hidden units once"),
        (lost, "experts of decoder.layers.0 are no slices of an FFN .*norm.weight"),
        (lambda state: state["cfg"]["model"].update(moe="vanilla"), "its system is vanilla"),
        (lambda state: state["cfg"]["model"].update(moe_freq=2), "not every layer"),
    ],
)
def test_what_cannot_be_merged_is_refused(dense: Path, damage: Any, words: str) -> None:
    state = cut_state(read_checkpoint(dense), cuts(), 0.3, "mlp")
    damage(state)
    with pytest.raises(UserError, match=words):
        merged_state(state, dense)
