"""From sentences to fairseq's memory-mapped data sets, with all cores, in the order of the sentences."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import sentencepiece
from fairseq.data.dictionary import Dictionary
from fairseq.data.indexed_dataset import MMapIndexedDataset, best_fitting_int_dtype

from data_prep.columns import read_blocks
from smoe_mt.files import write_lines
from smoe_mt.processes import chunks, ordered_map

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


@dataclass(frozen=True)
class Binarised:
    """Sentences written, sentences left out for their length, and how often each id was written (int[vocabulary])."""

    written: int
    too_long: int
    counts: np.ndarray


@dataclass(frozen=True)
class _Encoder:
    """What turns pairs of sentences into numbers."""

    model: bytes
    dtype: type
    longest: int | None


@lru_cache(maxsize=1)
def _processor(model: bytes) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_proto=model)


Side = tuple[np.ndarray, np.ndarray]


def _encode(pairs: list[tuple[str, str]], encoder: _Encoder) -> tuple[tuple[Side, Side], int]:
    """(tokens, lengths int32[pairs]) of either side, each sentence with </s>, and how many pairs are too long."""
    both = [_ids(side, encoder.model) for side in zip(*pairs)]
    longest = np.inf if encoder.longest is None else encoder.longest + 1
    good = [number for number, lengths in enumerate(zip(*(map(len, side) for side in both))) if max(lengths) <= longest]
    first, second = ([side[number] for number in good] for side in both)
    return (_joined(first, encoder.dtype), _joined(second, encoder.dtype)), len(pairs) - len(good)


def _ids(sentences: Sequence[str], model: bytes) -> list[np.ndarray]:
    """fairseq's ids of the pieces and of </s>, int32[length] a sentence."""
    special = Dictionary()
    encoded = []
    for ids in _processor(model).encode(list(sentences), num_threads=1):
        array = np.asarray([*ids, 0], dtype=np.int32)
        array = np.where(array < SPM_SPECIALS, special.unk(), array + special.nspecial - SPM_SPECIALS)
        array[-1] = special.eos()
        encoded.append(array)
    return encoded


def _joined(sentences: list[np.ndarray], dtype: type) -> Side:
    tokens: np.ndarray = np.concatenate([np.empty(0, dtype=dtype), *sentences]).astype(dtype)
    return tokens, np.array([len(ids) for ids in sentences], dtype=np.int32)


def binarise_pair(
    pairs: Iterable[tuple[str, str]],
    prefixes: tuple[Path, Path],
    model: bytes,
    vocabulary_size: int,
    longest: int | None,
    workers: int,
) -> Binarised:
    """Write ``{prefix}.bin`` and ``{prefix}.idx`` of both sides; pairs with more than ``longest`` pieces on a side are
    left out.
    """
    encoder = _Encoder(model, best_fitting_int_dtype(vocabulary_size), longest)
    counts = np.zeros(vocabulary_size, dtype=np.int64)
    written = too_long = 0
    with ExitStack() as stack:
        files = [
            [stack.enter_context(open(f"{prefix}.{ending}", "wb")) for ending in ("bin", "sizes")]
            for prefix in prefixes
        ]
        for sides, left_out in ordered_map(_encode, chunks(pairs, CHUNK), encoder, workers):
            too_long += left_out
            written += len(sides[0][1])
            for outputs, side in zip(files, sides):
                counts += np.bincount(side[0], minlength=vocabulary_size)
                for output, numbers in zip(outputs, side):
                    output.write(numbers.tobytes())
    for prefix in prefixes:
        _write_index(prefix, encoder.dtype, written)
    return Binarised(written, too_long, counts)


def _write_index(prefix: Path, dtype: type, count: int) -> None:
    """``{prefix}.idx`` from the file of lengths, in blocks: fairseq's own writer keeps all in lists."""
    sizes = Path(f"{prefix}.sizes")
    with MMapIndexedDataset.Index.writer(f"{prefix}.idx", dtype) as index:  # has written the header
        file = index._file
        file.write(struct.pack("<Q", count))
        for block in read_blocks(sizes, np.int32):
            file.write(block.tobytes())
        start = 0
        for block in read_blocks(sizes, np.int32):
            ends = start + np.cumsum(block, dtype=np.int64) * np.dtype(dtype).itemsize
            file.write(np.concatenate([[start], ends[:-1]]).astype(np.int64).tobytes())
            start = int(ends[-1])
    sizes.unlink()
