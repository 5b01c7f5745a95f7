"""One SentencePiece unigram model for all languages, from a balanced sample of the training text.

The sample of a language is the unique sentences of lowest hash, kept while the text streams by: it depends neither on
the order of the sentences nor on the number of processes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import sentencepiece

from data_prep.files import read_lines, say
from data_prep.rows import hash_of
from smoe_mt.errors import UserError
from smoe_mt.files import write_lines
from smoe_mt.processes import ordered_map

SAMPLE_CHARACTERS = 6_000_000
CHARACTERS_A_PIECE = 750
MOST_OF_A_LANGUAGE = 12_000_000
BALANCE = 0.5
ENOUGH_FOR_A_PIECE = 250  # characters of the sample, where the size of the vocabulary is ours to choose
SMALLEST_CHOSEN = 1000
THREADS = 4  # a constant: sums of floats depend on it
TOO_LARGE = re.compile(r"Vocabulary size too high \(\d+\)\. Please set it to a value <= (\d+)")
SMALLEST = 260  # the three specials, 256 bytes and one piece
ALL_HASHES = 1 << 64


@dataclass(frozen=True)
class SpmOptions:
    """Pieces wanted (``exact``: not fewer because the text is small, unless there are none), and SentencePiece's name
    of the normalisation.
    """

    vocab_size: int = 8000
    normalisation: str = "identity"
    seed: int = 0
    exact: bool = True

    @property
    def sample_characters(self) -> int:
        """Size of the sample to learn from."""
        return max(SAMPLE_CHARACTERS, CHARACTERS_A_PIECE * self.vocab_size)


class LowestHashes:
    """Unique sentences of lowest hash, at least ``most`` characters of them if there are as many."""

    def __init__(self, seed: int, most: int) -> None:
        self.seed, self.most = seed, most
        self.limit = ALL_HASHES
        self.characters = 0
        self.sentences: dict[int, str] = {}

    def add(self, sentence: str) -> None:
        """Look at one more sentence."""
        place = hash_of(str(self.seed), sentence)
        if place >= self.limit or place in self.sentences:
            return
        self.sentences[place] = sentence
        self.characters += len(sentence)
        if self.characters > 2 * self.most:
            self.prune()

    def prune(self) -> None:
        """Keep no more than is wanted."""
        kept: dict[int, str] = {}
        self.characters = 0
        for place in sorted(self.sentences):
            if self.characters >= self.most:
                self.limit = 1 + max(kept)
                break
            kept[place] = self.sentences[place]
            self.characters += len(kept[place])
        self.sentences = kept

    @property
    def estimated_characters(self) -> float:
        """Of all unique sentences: exact as long as none had to go, then by the share of hashes that is kept."""
        return self.characters * (ALL_HASHES / self.limit)


Text = tuple[str, Sequence[tuple[Path, int]]]


def balanced_sample(texts: Iterable[Text], folder: Path, options: SpmOptions, workers: int) -> int:
    """Write ``folder/sample``: unique sentences, of each language a share of the characters that goes with the square
    root of what it has. Returns the characters in it.

    ``texts`` are (language, [(file of rows, column), ...]).
    """
    most = options.sample_characters
    tasks = sorted(texts)
    sizes = dict(
        ordered_map(_lowest_of_language, tasks, (folder, options.seed, min(most, MOST_OF_A_LANGUAGE)), workers)
    )
    sample = _Count(_shares(folder, sizes, most))
    write_lines(folder / "sample", sample)
    for language in sizes:
        _kept(folder, language).unlink()
    return sample.characters


class _Count:
    def __init__(self, sentences: Iterator[str]) -> None:
        self.sentences, self.characters = sentences, 0

    def __iter__(self) -> Iterator[str]:
        for sentence in self.sentences:
            self.characters += len(sentence)
            yield sentence


def _lowest_of_language(task: Text, common: tuple[Path, int, int]) -> tuple[str, float]:
    """Write the lowest hashes' sentences to a file named after the language; returns how much it has in all."""
    (language, files), (folder, seed, most) = task, common
    lowest = LowestHashes(seed, most)
    for path, column in files:
        for line in read_lines(path):
            lowest.add(line.split("\t")[column])
    lowest.prune()
    write_lines(_kept(folder, language), lowest.sentences.values())
    return language, lowest.estimated_characters


def _kept(folder: Path, language: str) -> Path:
    return folder / f"{language}.kept"


def _shares(folder: Path, sizes: Mapping[str, float], characters: int) -> Iterator[str]:
    total = sum(size**BALANCE for size in sizes.values())
    for language in sorted(sizes):
        quota = characters * sizes[language] ** BALANCE / total
        for sentence in read_lines(_kept(folder, language)):
            if quota <= 0:
                break
            yield sentence
            quota -= len(sentence)


def size_for(characters: int, options: SpmOptions) -> int:
    """Number of pieces to learn from this number of characters: as requested, or fewer, with a message, where that is allowed."""
    if options.vocab_size < SMALLEST:
        raise UserError(
            f"--vocab-size {options.vocab_size} is too small: 256 of the pieces are bytes, so give {SMALLEST} or more"
        )
    fitting = max(characters // ENOUGH_FOR_A_PIECE // 1000 * 1000, SMALLEST_CHOSEN)
    if options.exact or fitting >= options.vocab_size:
        return options.vocab_size
    say(
        f"spm: {characters:,} characters of text are few for {options.vocab_size:,} pieces; making a vocabulary of "
        f"{fitting:,} (--vocab-size {options.vocab_size} insists)"
    )
    return fitting


def train_spm(sample: Path, size: int, options: SpmOptions) -> bytes:
    """The serialised model; smaller than asked for, with a message, if the sample has not enough pieces in it."""
    while True:
        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=read_lines(sample),
                model_writer=model,
                model_type="unigram",
                vocab_size=size,
                byte_fallback=True,
                character_coverage=0.9995,
                normalization_rule_name=options.normalisation,
                num_threads=THREADS,
                minloglevel=2,
                max_sentence_length=1 << 20,
                input_sentence_size=0,
                shuffle_input_sentence=False,
            )
            return model.getvalue()
        except RuntimeError as error:
            size = _smaller(size, str(error))


def _smaller(size: int, message: str) -> int:
    if match := TOO_LARGE.search(message):
        largest = int(match.group(1))
        if SMALLEST <= largest < size:
            say(f"spm: the corpus is too small for {size} pieces; making a vocabulary of {largest}")
            return largest
    if "smaller than required_chars" in message:
        raise UserError(
            f"--vocab-size {size} is too small for the characters of the corpus ({message.splitlines()[-1]}): "
            "give a larger one"
        )
    raise UserError(
        f"SentencePiece could not learn a model from so little text ({' '.join(message.split())}): give more sentences"
    )
