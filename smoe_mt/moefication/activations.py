"""What the dense FFNs of a model read and which of their hidden units fire, in teacher-forced passes over real text."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from smoe_mt.analysis.forced import direction_texts, forced_batches
from smoe_mt.errors import UserError
from smoe_mt.moe.names import SIDES, Block
from smoe_mt.progress import progress_bar


@dataclass
class Recorded:
    """Of each dense FFN; tokens are those of its side, padding excluded.

    inputs  float32 [tokens, D], what it reads; kept only where they are asked for
    active  share of the hidden units that fire for a token, by direction
    mean    the same over the tokens of all directions
    never   share of the units that fired for no token
    tokens  by side
    """

    directions: tuple[str, ...]
    inputs: dict[Block, Tensor] = field(default_factory=dict)
    active: dict[Block, dict[str, float]] = field(default_factory=dict)
    mean: dict[Block, float] = field(default_factory=dict)
    never: dict[Block, float] = field(default_factory=dict)
    sentences: int = 0
    tokens: dict[str, int] = field(default_factory=dict)


def dense_ffns(model: Any) -> dict[Block, nn.Module]:
    """The layers that have a dense FFN, ``fc1`` and ``fc2``, by their names; encoder first."""
    return {
        Block(side, number): layer
        for side in SIDES
        for number, layer in enumerate(getattr(model, side).layers, start=1)
        if isinstance(layer.fc1, nn.Linear)
    }


class _Counter:
    """What is added up of one FFN."""

    def __init__(self, units: int, directions: int, device: torch.device) -> None:
        self.inputs: list[Tensor] = []
        self.fired = torch.zeros(directions, dtype=torch.float64, device=device)
        self.tokens = [0] * directions
        self.ever = torch.zeros(units, dtype=torch.bool, device=device)


@torch.no_grad()
def record(
    loaded: Any, directions: tuple[str, ...], subset: str, sentences: int, max_tokens: int, keep_inputs: bool
) -> Recorded:
    """Read about as many sentence pairs, equally many of each direction, and count.

    Raises:
        UserError: a model without a dense FFN, or a split without text.
    """
    model, task = loaded.model, loaded.task
    ffns = dense_ffns(model)
    if not ffns:
        raise UserError(f"{loaded.checkpoint}: no layer has a dense FFN; give a model with some")
    limit = max(1, math.ceil(sentences / len(directions)))
    counters = {
        name: _Counter(layer.fc1.out_features, len(directions), layer.fc1.weight.device)  # type: ignore[union-attr, arg-type]
        for name, layer in ffns.items()
    }
    found = Recorded(directions)
    texts = direction_texts(task, subset, directions)
    with progress_bar(sum(min(limit, len(text)) for text in texts), "reading") as bar:
        for place, text in enumerate(texts):
            for batch in forced_batches(task, model, text, limit, max_tokens):
                real = {side: batch.tokens(side) != task.special.pad for side in SIDES}
                with _watched(ffns, counters, real, place, keep_inputs):
                    model(**batch.net_input)
                found.sentences += len(batch.lines)
                bar.update(len(batch.lines))
    for name, counter in counters.items():
        _conclude(found, name, counter)
    return found


@contextmanager
def _watched(
    ffns: dict[Block, nn.Module], counters: dict[Block, _Counter], real: dict[str, Tensor], place: int, keep: bool
) -> Iterator[None]:
    """While open, each pass through an FFN is added to its counter, as of direction number ``place``; real [B, T] by side."""

    def watch(name: Block) -> Any:
        counter, here_TB = counters[name], real[name.side].t()

        def hook(_module: nn.Module, inputs: tuple[Tensor, ...], h_TBF: Tensor) -> None:
            positive = h_TBF[here_TB] > 0
            counter.fired[place] += positive.sum()
            counter.ever |= positive.any(dim=0)
            counter.tokens[place] += positive.size(0)
            if keep:
                counter.inputs.append(inputs[0][here_TB].float().cpu())

        return hook

    handles = [layer.fc1.register_forward_hook(watch(name)) for name, layer in ffns.items()]  # type: ignore[union-attr, operator]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _conclude(found: Recorded, name: Block, counter: _Counter) -> None:
    units = counter.ever.numel()
    fired = counter.fired.tolist()
    found.active[name] = {
        direction: fired[place] / max(1, counter.tokens[place] * units)
        for place, direction in enumerate(found.directions)
    }
    found.tokens[name.side] = sum(counter.tokens)
    found.mean[name] = sum(fired) / max(1, sum(counter.tokens) * units)
    found.never[name] = 1 - counter.ever.float().mean().item()
    if counter.inputs:
        found.inputs[name] = torch.cat(counter.inputs)
