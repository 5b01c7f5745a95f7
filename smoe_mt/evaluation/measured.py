"""What a translation costs: hidden units of experts that a token asks for, measured on sources and hypotheses with the routing in
force. A report makes FLOPs of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from smoe_mt.evaluation.metrics import Corpus
from smoe_mt.generation import Decoding, Translator
from smoe_mt.generation.details import block_means
from smoe_mt.generation.routing import weakened

SENTENCES = 100  # of each direction


def mean_context(lengths: Iterable[int]) -> int:
    """Tokens that a token attends to, its sentence's: mean over the tokens of sentences of these lengths, rounded, at least 1."""
    tokens = squares = 0
    for length in lengths:
        tokens += length
        squares += length**2
    return max(1, round(squares / max(tokens, 1)))


def measured_blocks(translator: Translator, corpora: Sequence[Corpus], decoding: Decoding) -> dict[str, Any] | None:
    """Means over the tokens of the first sentences of each direction, by block, teacher-forced; of the weak pass of a contrast too.
    And the context: tokens of the sentence that a token stands in, mean over the tokens of both sides.

    None for an ensemble, and for experts spread over ranks.
    """
    task, model = translator.loaded.task, translator.loaded.model
    if len(translator.models) > 1 or task.expert_ranks is not None:
        return None
    sources, targets = [], []
    for corpus in corpora:
        language = corpus.direction.split("-")[1]
        for source, hypothesis in zip(corpus.sources[:SENTENCES], corpus.hypotheses[:SENTENCES], strict=True):
            if source and hypothesis:
                sources.append(task.encode(source, language))
                targets.append(task.encode_prefix(hypothesis))
    if not sources:
        return None

    context = mean_context([len(source) for source in sources] + [len(target) + 1 for target in targets])

    def means() -> dict[str, Any]:
        if not any(model.moe_layers.values()):
            return {}
        return {block: asdict(one) for block, one in block_means(task, model, sources, targets).items()}

    with translator.loaded.lock, translator.reroutings[0].opened():
        found: dict[str, Any] = {"sentences": len(sources), "context": context, "blocks": means()}
        if decoding.contrast is not None:
            with weakened(model, decoding.contrast_rank):
                found["weak_blocks"] = means()
    return found
