"""One SentencePiece unigram model for all languages, from a balanced sample of the training text."""

from __future__ import annotations

import io
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sentencepiece

from data_prep.files import say
from smoe_mt.errors import UserError

SAMPLE_CHARACTERS = 6_000_000
BALANCE = 0.5
THREADS = 4  # a constant: sums of floats depend on it
TOO_LARGE = re.compile(r"Vocabulary size too high \(\d+\)\. Please set it to a value <= (\d+)")
SMALLEST = 260  # the three specials, 256 bytes and one piece


@dataclass(frozen=True)
class SpmOptions:
    """Pieces wanted, and SentencePiece's name of the normalisation."""

    vocab_size: int = 8000
    normalisation: str = "nmt_nfkc"
    seed: int = 0


def balanced_sample(texts: Mapping[str, Sequence[str]], seed: int, characters: int = SAMPLE_CHARACTERS) -> list[str]:
    """Unique sentences; a language's share of the characters goes with the square root of what it has."""
    unique = {language: sorted(set(sentences)) for language, sentences in texts.items()}
    sizes = {language: sum(map(len, sentences)) for language, sentences in unique.items()}
    weights = {language: size**BALANCE for language, size in sizes.items()}
    sample: list[str] = []
    for language in sorted(unique):
        quota = characters * weights[language] / sum(weights.values())
        sentences = unique[language]
        random.Random(f"{seed} {language}").shuffle(sentences)
        for sentence in sentences:
            if quota <= 0:
                break
            sample.append(sentence)
            quota -= len(sentence)
    return sample


def train_spm(sample: Sequence[str], options: SpmOptions) -> bytes:
    """The serialised model; smaller than asked for, with a message, if the sample has not enough pieces in it."""
    size = options.vocab_size
    if size < SMALLEST:
        raise UserError(f"--vocab-size {size} is too small: 256 of the pieces are bytes, so give {SMALLEST} or more")
    while True:
        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(sample),
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
            say(f"spm: the corpus has no {size} pieces in it; making a vocabulary of {largest}")
            return largest
    if "smaller than required_chars" in message:
        raise UserError(
            f"--vocab-size {size} is too small for the characters of the corpus ({message.splitlines()[-1]}): "
            "give a larger one"
        )
    raise UserError(
        f"SentencePiece could not learn a model from so little text ({' '.join(message.split())}): give more sentences"
    )
