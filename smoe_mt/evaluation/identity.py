"""What a result is the result of: the weights by their content, the search, and the text.

Two translations are the same where the weights, the model's settings, the vocabulary, the precision, the search and the source
are; names and times of files say nothing. A result has a folder of its own wherever its text, search or scoring is not the
usual one, so that no result takes the place of another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import torch
from omegaconf import OmegaConf

from smoe_mt.bleu_tokenizers import AUTO
from smoe_mt.checksums import sha256_value
from smoe_mt.evaluation.metrics.piece_bleu import fingerprint
from smoe_mt.evaluation.ranks import Ranks
from smoe_mt.evaluation.result import versions
from smoe_mt.generation import Decoding, LoadedModel, RoutingOptions, Translator
from smoe_mt.search.beam import CONTRAST
from smoe_mt.tasks.pieces import FolderPieces

MOST_NAMED = 4  # directions in the name of a result


def made_from(translator: Translator, decoding: Decoding, ranks: Ranks) -> dict[str, Any]:
    """All that a translation depends on besides its source; of use on the first rank, and all of them have to ask.

    Contrast and another routing are named where there are any: hypotheses of versions that had none stay of use.
    """
    usual = asdict(Decoding())
    return {
        "models": [_model(each, ranks) for each in translator.models],
        "precision": str(next(translator.loaded.model.parameters()).dtype),
        "pieces": fingerprint(FolderPieces(translator.loaded.task.spm)),
        **{name: value for name, value in asdict(decoding).items() if name not in CONTRAST or value != usual[name]},
        **(
            {}
            if translator.routing.changes_nothing
            else {"routing": [each.as_json() for each in translator.reroutings]}
        ),
        "smoe_mt": versions()["smoe_mt"],
    }


def _model(loaded: LoadedModel, ranks: Ranks) -> dict[str, Any]:
    """Checksums of weights and settings. Ranks that share the experts have different weights, all others the same."""
    settings = OmegaConf.to_container(loaded.config.model, enum_to_str=True)
    weights = sorted(set(ranks.gather(weights_checksum(loaded.model))))
    return {"weights": weights, "settings": sha256_value(settings)}


def weights_checksum(model: torch.nn.Module) -> str:
    """SHA-256 of all weights in memory, with their names, types and shapes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        content = tensor.detach().cpu().contiguous().flatten()
        digest.update(memoryview(content.view(torch.uint8).numpy()))
    return digest.hexdigest()


def variant(
    directions: Sequence[str],
    limit: int | None,
    decoding: Decoding,
    tokenize: str = AUTO,
    routing: RoutingOptions | None = None,
) -> list[str]:
    """What is not as usual, in words for the name of a folder: part of the directions or sentences, another search, routing or
    tokenizer."""
    usual = asdict(Decoding())
    parts = [_named(directions)] if directions else []
    parts += [f"first-{limit}"] if limit is not None else []
    parts += [f"{name}-{value}" for name, value in asdict(decoding).items() if value != usual[name]]
    parts += routing_parts(routing or RoutingOptions())
    return parts + ([f"tokenize-{tokenize}"] if tokenize != AUTO else [])


def routing_parts(routing: RoutingOptions) -> list[str]:
    """Another routing than in training, in words for the name of a folder: "test_top_k-1", "capacity-mean-1.5"."""
    return [f"{name}-{value}".replace("=", "-") for name, value in routing.given().items()]


def _named(directions: Iterable[str]) -> str:
    names = sorted(set(directions))
    if len(names) <= MOST_NAMED:
        return "+".join(names)
    return f"{len(names)}-directions-{sha256_value(names)[:8]}"
