"""The same search by others: by fairseq's decoder in our search, fairseq's generator, and CTranslate2 where it is installed."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from fairseq.sequence_generator import SequenceGenerator
from torch import Tensor

from smoe_mt.errors import UserError
from smoe_mt.export.ctranslate2 import convert
from smoe_mt.search.beam import BeamDecoder, Decoding
from smoe_mt.search.steps import SingleModel, StepScorer

Search = Callable[[], object]


def fairseq_search(model: Any, sources: Sequence[Tensor], args: argparse.Namespace, task: Any) -> Search:
    """fairseq-generate's search over one batch."""
    dictionary = task.target_dictionary
    tokens = torch.stack(list(sources)).to(args.device)
    lengths = torch.full((len(sources),), tokens.size(1), device=args.device)
    sample = {"id": torch.arange(len(sources)), "net_input": {"src_tokens": tokens, "src_lengths": lengths}}
    limits = {"max_len_a": 0, "max_len_b": args.length, "min_len": args.length}
    generator = SequenceGenerator([model.eval()], dictionary, beam_size=args.beam, **limits)

    def search() -> object:
        model.decoder.set_beam_size(args.beam)
        found = generator.generate([model], sample)
        model.decoder.set_beam_size(1)
        return found

    return search


def our_search(scorer: StepScorer, sources: Sequence[Tensor], args: argparse.Namespace, task: Any) -> Search:
    """Our search over one batch; each output ends at ``args.length`` tokens."""
    decoding = Decoding(args.beam, max_len_a=0, max_len_b=args.length, min_len=args.length)
    decoder = BeamDecoder(scorer, task.source_dictionary, decoding)
    return lambda: decoder(sources)


def unprepared_search(model: Any, sources: Sequence[Tensor], args: argparse.Namespace, task: Any) -> Search:
    """Our search with the scores of fairseq's decoder."""
    return our_search(SingleModel(model.eval()), sources, args, task)


def ctranslate2_search(
    model: Any, sources: Sequence[Tensor], args: argparse.Namespace, task: Any, compute_type: str = "float32"
) -> Search:
    """CTranslate2's search over one batch. UserError where it is not installed."""
    try:
        import ctranslate2
    except ImportError:
        raise UserError("--others ctranslate2: pip install ctranslate2") from None
    symbols = task.target_dictionary.symbols
    with tempfile.TemporaryDirectory() as folder:
        convert(model, symbols, Path(folder), "float32")
        translator = ctranslate2.Translator(
            folder, device=args.device, intra_threads=args.threads, compute_type=compute_type
        )
    lines = [[symbols[i] for i in source.tolist()[:-1]] for source in sources]
    limits = {"min_decoding_length": args.length, "max_decoding_length": args.length}
    return lambda: translator.translate_batch(
        lines, beam_size=args.beam, length_penalty=1.0, max_batch_size=0, **limits
    )


OTHERS: dict[str, Callable[[Any, Sequence[Tensor], argparse.Namespace, Any], Search]] = {
    "unprepared": unprepared_search,
    "fairseq": fairseq_search,
    "ctranslate2": ctranslate2_search,
    "ctranslate2_int8": partial(ctranslate2_search, compute_type="int8"),
}
