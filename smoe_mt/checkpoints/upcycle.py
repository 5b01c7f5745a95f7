"""Start a MoE model from a dense one: every expert begins as the dense FFN in whose place it stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from smoe_mt.checkpoints.fairseq_import import fit_vocabulary, from_state
from smoe_mt.checkpoints.reading import read_checkpoint
from smoe_mt.checkpoints.schema import CheckpointView
from smoe_mt.checkpoints.settings import is_own
from smoe_mt.errors import UserError
from smoe_mt.moe import ExpertBank
from smoe_mt.moe.shared import SharedExperts
from smoe_mt.tasks.vocabulary import Vocabulary


def upcycle_from(
    checkpoint: str | Path, model: nn.Module, vocabulary: Vocabulary | None = None, symbols: Sequence[str] = ()
) -> None:
    """Copy the weights of a dense ``smoe_transformer`` or fairseq transformer into ``model``; gates stay as they are.

    Shared experts, which a dense model has none of, start with an output of 0: the model starts as the dense one.

    `vocabulary` and its `symbols`, in order: those of ``model``. Raises UserError for a checkpoint that is not there, and
    for one of another size or vocabulary.
    """
    path = Path(checkpoint)
    if not path.is_file():
        raise UserError(f"--init-experts-from: there is no checkpoint {path}")
    state = read_checkpoint(path, foreign=True)
    dense = state["model"]
    theirs = CheckpointView(state).vocabulary
    if not is_own(state):
        dense, _ = fit_vocabulary(from_state(state, path), symbols)
    elif theirs is not None and vocabulary is not None:
        vocabulary.check(theirs)
    model.load_state_dict(upcycled_state(dense, model, str(path)))


def upcycled_state(dense: Mapping[str, Tensor], model: nn.Module, where: str) -> dict[str, Tensor]:
    """The state of ``model`` with the dense weights in it.

    Raises:
        UserError: a weight that the dense model lacks, or has in another shape, or experts that cannot start from it.
    """
    target, state = model.state_dict(), {}
    banks = {f"{name}.": module for name, module in model.named_modules() if isinstance(module, ExpertBank)}
    for prefix, bank in banks.items():
        _check_whole_tokens(prefix.partition(".block.")[0], bank, model)
    beside = tuple(f"{name}.shared." for name, module in model.named_modules() if isinstance(module, SharedExperts))
    for name, old in target.items():
        if name.startswith(beside):
            state[name] = torch.zeros_like(old) if ".fc2." in name else old
            continue
        source = _dense_name(name)
        if any(name.startswith(bank) for bank in banks):
            continue
        state[name] = old if source is None else _fitting(dense, source, old, where)
    for prefix, bank in banks.items():
        layer = prefix.partition(".block.")[0]
        ffn = [_weight(dense, f"{layer}.{leaf}", where) for leaf in FFN]
        try:
            state |= {f"{prefix}{name}": weight for name, weight in bank.from_dense(*ffn).items()}
        except ValueError as error:
            raise UserError(
                f"--init-experts-from: the FFN {layer}.fc1, {layer}.fc2 of {where} does not fit: {error}; "
                "every expert must be as large as the dense FFN"
            ) from None
    return state


def _check_whole_tokens(layer: str, bank: ExpertBank, model: nn.Module) -> None:
    width: Any = model.get_submodule(layer).embed_dim
    if bank.embed_dim != width:
        raise UserError(
            f"--init-experts-from: the experts of {layer} read parts of a token, {bank.embed_dim} of its {width} values, and a "
            "dense FFN reads whole tokens: such a model cannot start from a dense one; leave --init-experts-from out"
        )


FFN = ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias")


def _weight(dense: Mapping[str, Tensor], source: str, where: str) -> Tensor:
    if source not in dense:
        raise UserError(f"--init-experts-from: {where} has no {source}; it must be a dense model of as many layers")
    return dense[source]


def _fitting(dense: Mapping[str, Tensor], source: str, old: Tensor, where: str) -> Tensor:
    new = _weight(dense, source, where)
    if new.shape != old.shape:
        raise UserError(
            f"--init-experts-from: {source} is {tuple(new.shape)} in {where}, but this model has {tuple(old.shape)}; "
            "both models must have the same dimensions and vocabulary"
        )
    return new.to(old.dtype).clone()


def _dense_name(name: str) -> str | None:
    """Where the weight lies in the dense model; None for a gate, which a dense model has not."""
    layer, block, inside = name.partition(".block.")
    if not block:
        return name
    kind, leaf = inside.split(".")[-2:]
    if kind in ("fc1", "fc2"):
        return f"{layer}.{kind}.{leaf}"
    if "norm" in inside:
        return f"{layer}.final_layer_norm.{leaf}"
    return None
