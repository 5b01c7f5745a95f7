"""From sentences to fairseq's memory-mapped data sets, with all cores, in the order of the sentences."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path

import numpy as np
import sentencepiece
import torch
from fairseq.data.dictionary import Dictionary
from fairseq.data.indexed_dataset import MMapIndexedDatasetBuilder, best_fitting_int_dtype

from data_prep.files import write_lines
from data_prep.parallel import chunks, ordered_map

SPM_SPECIALS = 3  # <unk> <s> </s>; fairseq has <s> <pad> </s> <unk>
LONGEST_TRAINING = 250
CHUNK = 2000


@dataclass(frozen=True)
class Vocabulary:
    """The pieces of a SentencePiece model as fairseq numbers them, the tags of the languages after them."""

    pieces: tuple[str, ...]
    tags: tuple[str, ...]

    @classmethod
    def of(cls, model: bytes, languages: Iterable[str]) -> Vocabulary:
        """The vocabulary of a serialised model."""
        processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        pieces = tuple(processor.id_to_piece(number) for number in range(SPM_SPECIALS, processor.get_piece_size()))
        return cls(pieces, tuple(f"<2{language}>" for language in sorted(languages)))

    def __len__(self) -> int:
        return Dictionary().nspecial + len(self.pieces) + len(self.tags)

    @property
    def padded_size(self) -> int:
        """Entries of the dictionary that ``write`` makes, fairseq's specials among them: a multiple of 8."""
        return len(self) + -len(self) % 8

    def write(self, path: Path, counts: np.ndarray) -> None:
        """``dict.txt``; ``counts`` int[len(vocabulary)] by fairseq's numbers. Filled up to a multiple of 8."""
        offset = Dictionary().nspecial
        lines = [f"{piece} {counts[offset + number]}" for number, piece in enumerate(self.pieces)]
        lines += [f"{tag} 1" for tag in self.tags]
        lines += [f"madeupword{number:04d} 0" for number in range(self.padded_size - len(self))]
        write_lines(path, lines)


@lru_cache(maxsize=1)
def _processor(model: bytes) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_proto=model)


def _encode(task: tuple[list[str], bytes]) -> list[np.ndarray]:
    """fairseq's ids of the pieces and of </s>, int32[length] a sentence."""
    sentences, model = task
    special = Dictionary()
    encoded = []
    for ids in _processor(model).encode(sentences, num_threads=1):
        array = np.asarray([*ids, 0], dtype=np.int32)
        array = np.where(array < SPM_SPECIALS, special.unk(), array + special.nspecial - SPM_SPECIALS)
        array[-1] = special.eos()
        encoded.append(array)
    return encoded


def encode(sentences: Iterable[str], model: bytes, workers: int) -> Iterator[np.ndarray]:
    """Each sentence's ids, in order."""
    for chunk in ordered_map(_encode, ((chunk, model) for chunk in chunks(sentences, CHUNK)), workers):
        yield from chunk


@dataclass(frozen=True)
class Binarised:
    """Sentences written, sentences left out for their length, and how often each id was written (int[vocabulary])."""

    written: int
    too_long: int
    counts: np.ndarray


def binarise_pair(
    sides: tuple[Sequence[str], Sequence[str]],
    prefixes: tuple[Path, Path],
    model: bytes,
    vocabulary_size: int,
    longest: int | None,
    workers: int,
) -> Binarised:
    """Write ``{prefix}.bin`` and ``{prefix}.idx`` of both sides; pairs with more than ``longest`` pieces on a side are
    left out.
    """
    dtype = best_fitting_int_dtype(vocabulary_size)
    builders = [MMapIndexedDatasetBuilder(f"{prefix}.bin.tmp", dtype=dtype) for prefix in prefixes]
    counts = np.zeros(vocabulary_size, dtype=np.int64)
    tokens: list[np.ndarray] = []
    written = too_long = 0
    encoded = encode((text for both in zip(*sides) for text in both), model, workers)
    while both := list(islice(encoded, 2)):
        if longest is not None and max(map(len, both)) > longest + 1:
            too_long += 1
            continue
        written += 1
        for builder, ids in zip(builders, both):
            builder.add_item(torch.from_numpy(ids))
            tokens.append(ids)
        if len(tokens) >= CHUNK:
            counts += _histogram(tokens, vocabulary_size)
            tokens.clear()
    counts += _histogram(tokens, vocabulary_size)
    for builder, prefix in zip(builders, prefixes):
        builder.finalize(f"{prefix}.idx.tmp")
        for ending in ("idx", "bin"):
            os.replace(f"{prefix}.{ending}.tmp", f"{prefix}.{ending}")
    return Binarised(written, too_long, counts)


def _histogram(tokens: Sequence[np.ndarray], size: int) -> np.ndarray:
    return np.bincount(np.concatenate([np.empty(0, dtype=np.int32), *tokens]), minlength=size)
