"""Start a MoE model from a dense one: every expert begins as the dense FFN in whose place it stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from smoe_mt.checkpoints.fairseq_import import fit_vocabulary, from_state, is_foreign
from smoe_mt.checkpoints.reading import read_checkpoint
from smoe_mt.checkpoints.schema import CheckpointView
from smoe_mt.errors import UserError
from smoe_mt.tasks.vocabulary import Vocabulary

FFN_OF_EXPERTS = {"w_in": "fc1.weight", "b_in": "fc1.bias", "w_out": "fc2.weight", "b_out": "fc2.bias"}


def upcycle_from(
    checkpoint: str | Path, model: nn.Module, vocabulary: Vocabulary | None = None, symbols: Sequence[str] = ()
) -> None:
    """Copy the weights of a dense ``smoe_transformer`` or fairseq transformer into ``model``; gates stay as they are.

    `vocabulary` and its `symbols`, in order: those of ``model``. Raises UserError for a checkpoint that is not there, and
    for one of another size or vocabulary.
    """
    path = Path(checkpoint)
    if not path.is_file():
        raise UserError(f"--init-experts-from: there is no checkpoint {path}")
    state = read_checkpoint(path)
    dense = state["model"]
    theirs = CheckpointView(state).vocabulary
    if is_foreign(state):
        dense, _ = fit_vocabulary(from_state(state, path), symbols)
    elif theirs is not None and vocabulary is not None:
        vocabulary.check(theirs)
    model.load_state_dict(upcycled_state(dense, model.state_dict(), str(path)))


def upcycled_state(dense: Mapping[str, Tensor], target: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """The state of ``target`` with the dense weights in it: shapes and names of ``target``.

    Raises:
        UserError: a weight that the dense model lacks, or has in another shape.
    """
    state: dict[str, Tensor] = {}
    for name, old in target.items():
        source = _dense_name(name)
        if source is None:
            state[name] = old
            continue
        if source not in dense:
            raise UserError(f"--init-experts-from: {where} has no {source}; it must be a dense model of as many layers")
        new = dense[source]
        if new.shape != old.shape and new.shape != old.shape[1:]:
            raise UserError(
                f"--init-experts-from: {source} is {tuple(new.shape)} in {where}, but this model has {tuple(old.shape)}; "
                "both models must have the same dimensions and vocabulary"
            )
        state[name] = new.to(old.dtype).expand_as(old).clone()
    return state


def _dense_name(name: str) -> str | None:
    """Where the weight lies in the dense model; None for a gate, which a dense model has not."""
    layer, block, inside = name.partition(".block.")
    if not block:
        return name
    kind, leaf = inside.split(".")[-2:]
    if kind == "experts":
        return f"{layer}.{FFN_OF_EXPERTS[leaf]}"
    if kind in ("fc1", "fc2"):
        return f"{layer}.{kind}.{leaf}"
    if "norm" in inside:
        return f"{layer}.final_layer_norm.{leaf}"
    return None
