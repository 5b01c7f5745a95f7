"""A data folder of any size without text: real indices, and .bin files that are holes.

Pair sizes have the published shape of OPUS-100 (Zhang et al. 2020: 1M sentence pairs for 44 pairs, 100k or more for 73, 10k or
more for the others that have test sets), scaled to the total. Sentence lengths are log-normal, fitted to 144k pairs of Catalan,
Malay, Northern Sotho and Tagalog software text with English, in pieces of a joint vocabulary of 4k.
"""

from __future__ import annotations

import itertools
import json
import string
from pathlib import Path

import numpy as np
from tqdm import tqdm

from smoe_mt.tasks.data_folder import language_tag
from smoe_mt.tasks.token_file import HEAD, MAGIC

# log(pieces, </s> included): foreign and English side, and how they go together
MEANS, SPREADS, CORRELATION = (2.458, 2.276), (0.707, 0.717), 0.909
SHORTEST, LONGEST = 2, 250
TOKEN_TYPE = 8  # uint16
VOCABULARY = 32_000


def pair_sizes(pairs: int, total: int) -> np.ndarray:
    """int64[pairs], largest first, that sum to `total`: at ranks 44, 73 and the last 1M, 100k and 10k, scaled."""
    ranks = np.linspace(1, 94, pairs)
    shape = 10 ** np.interp(ranks, [44, 73, 94], [6, 5, 4])
    sizes = np.maximum(1, np.floor(shape / shape.sum() * total)).astype(np.int64)
    sizes[0] += total - sizes.sum()
    return sizes


def make_folder(path: Path, pairs: int, total: int, full: bool, vocabulary: int = VOCABULARY) -> None:
    """Write the folder, corpus.json last. `full`: .bin files hold random tokens of the `vocabulary` instead of holes."""
    path.mkdir(parents=True)
    letters = itertools.product(string.ascii_lowercase, repeat=2)
    languages = ["".join(name) for name in letters if "".join(name) != "en"][:pairs]
    sizes = pair_sizes(pairs, total)
    rng = np.random.default_rng(1)
    for language, size in zip(tqdm(languages, desc="writing indices", unit="pair"), sizes):
        lengths = _lengths(rng, int(size))
        for side, name in enumerate((language, "en")):
            _write(path / f"train.{language}-en.{name}", lengths[side], rng if full else None, vocabulary)
    tags = [language_tag(language) for language in sorted([*languages, "en"])]
    # fairseq adds four special tokens of its own
    entries = [f"w{number}" for number in range(vocabulary - 4 - len(tags))] + tags
    (path / "dict.txt").write_text("".join(f"{entry} 1\n" for entry in entries))
    (path / "spm.model").touch()  # never opened: there is no text
    (path / "directions.txt").write_text("".join(f"{name}-en\nen-{name}\n" for name in languages))
    counts = {f"{language}-en": int(size) for language, size in zip(languages, sizes)}
    card = {"format": 1, "pairs": list(counts), "splits": {"train": counts}, "vocab_size": vocabulary}
    (path / "corpus.json").write_text(json.dumps(card))


def _lengths(rng: np.random.Generator, size: int) -> np.ndarray:
    """int32[2, size]"""
    first, other = rng.standard_normal((2, size), dtype=np.float32)
    second = CORRELATION * first + np.sqrt(1 - CORRELATION**2) * other
    logs = np.stack([MEANS[0] + SPREADS[0] * first, MEANS[1] + SPREADS[1] * second])
    return np.clip(np.rint(np.exp(logs)), SHORTEST, LONGEST).astype(np.int32)


def _write(prefix: Path, lengths: np.ndarray, rng: np.random.Generator | None, vocabulary: int) -> None:
    ends = np.cumsum(lengths, dtype=np.int64) * 2
    with prefix.with_name(f"{prefix.name}.idx").open("wb") as stream:
        stream.write(HEAD.pack(MAGIC, 1, TOKEN_TYPE, len(lengths)))
        lengths.tofile(stream)
        (ends - lengths * np.int64(2)).tofile(stream)
    with prefix.with_name(f"{prefix.name}.bin").open("wb") as stream:
        if rng is None:
            stream.truncate(int(ends[-1]))
        else:
            rng.integers(4, vocabulary, int(ends[-1]) // 2, dtype=np.uint16).tofile(stream)
