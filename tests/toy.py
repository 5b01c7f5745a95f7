"""A complete tiny data folder in artificial languages, made in a second: what tests train on.

`en` is a row of words, `aa` copies it, `bb` reverses it. Words are spelt alike in all three, so a model has to read the tag to
know what is asked of it. The folder has the layout that `smoe-mt prepare` writes.
"""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import torch
from fairseq.data import Dictionary
from fairseq.data.indexed_dataset import MMapIndexedDatasetBuilder

from smoe_mt.checksums import sealed, sha256_file

Words = list[str]
RELATIONS: Mapping[str, Callable[[Words], Words]] = {"aa": list, "bb": lambda words: words[::-1]}
SIZES: Mapping[str, int | dict[str, int]] = {"train": 400, "valid": 20, "test": 20}


def make_toy_folder(
    path: Path,
    *,
    languages: Sequence[str] = ("aa", "bb"),
    sizes: Mapping[str, int | dict[str, int]] = SIZES,
    words: int = 20,
    length: tuple[int, int] = (2, 6),
    seed: int = 1,
) -> Path:
    """Write a data folder of the pairs `language`-en for each of `languages` (of aa, bb), and return its path.

    `sizes`: sentence pairs of each split, the same for all pairs or language -> number (0: the pair has none). `words`: words
    in the vocabulary; `length`: fewest and most words in a sentence. No sentence occurs twice over all splits.
    """
    rng = random.Random(seed)
    path.mkdir(parents=True)
    (path / "text").mkdir()
    vocabulary = _vocabulary(rng, words)
    seen: set[str] = set()
    text: dict[tuple[str, str, str], list[str]] = {}
    for split, wanted in sizes.items():
        for language in languages:
            count = wanted if isinstance(wanted, int) else wanted.get(language, 0)
            english = [_new_sentence(rng, vocabulary, length, seen) for _ in range(count)]
            if count:
                text[split, f"{language}-en", "en"] = [" ".join(sentence) for sentence in english]
                text[split, f"{language}-en", language] = [" ".join(RELATIONS[language](s)) for s in english]
    _write(path, languages, text)
    return path


def seal(folder: Path) -> None:
    """Put checksums into corpus.json, as `smoe-mt prepare` does."""
    card = json.loads((folder / "corpus.json").read_text(encoding="utf-8"))
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "corpus.json")
    card["checksums"] = {path.relative_to(folder).as_posix(): sha256_file(path) for path in files}
    (folder / "corpus.json").write_text(json.dumps(sealed(card), indent=1), encoding="utf-8")


def _vocabulary(rng: random.Random, words: int) -> Words:
    syllables = [consonant + vowel for consonant in "bdfgklmnprst" for vowel in "aeiou"]
    found: dict[str, None] = {}
    while len(found) < words:
        found["".join(rng.choices(syllables, k=2))] = None
    return list(found)


def _new_sentence(rng: random.Random, vocabulary: Words, length: tuple[int, int], seen: set[str]) -> Words:
    while True:
        sentence = rng.choices(vocabulary, k=rng.randint(*length))
        key = " ".join(sentence)
        if key not in seen and key != " ".join(sentence[::-1]):
            seen.update((key, " ".join(sentence[::-1])))
            return sentence


def _write(path: Path, languages: Sequence[str], text: Mapping[tuple[str, str, str], list[str]]) -> None:
    model = io.BytesIO()
    training = [line for (split, _, _), lines in text.items() if split == "train" for line in lines]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(training), model_writer=model, vocab_size=200, hard_vocab_limit=False, minloglevel=2
    )
    (path / "spm.model").write_bytes(model.getvalue())
    spm = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    dictionary = Dictionary()
    for piece in range(3, spm.get_piece_size()):
        dictionary.add_symbol(spm.id_to_piece(piece), n=1)
    codes = sorted({*languages, "en"})
    for language in codes:
        dictionary.add_symbol(f"<2{language}>", n=1)
    dictionary.pad_to_multiple_(8)
    dictionary.save(str(path / "dict.txt"))
    for (split, pair, language), lines in text.items():
        builder = MMapIndexedDatasetBuilder(str(path / f"{split}.{pair}.{language}.bin"), dtype=np.uint16)
        for line in lines:
            ids = [dictionary.index(piece) for piece in spm.encode(line, out_type=str)]
            builder.add_item(torch.tensor([*ids, dictionary.eos()]))
        builder.finalize(str(path / f"{split}.{pair}.{language}.idx"))
        if split != "train":
            (path / "text" / f"{split}.{pair}.{language}").write_text("\n".join(lines) + "\n", encoding="utf-8")
    pairs = [f"{language}-en" for language in languages]
    (path / "directions.txt").write_text("".join(f"{p}\n{'-'.join(p.split('-')[::-1])}\n" for p in pairs))
    splits: dict[str, dict[str, int]] = {}
    for (split, pair, _), lines in text.items():
        splits.setdefault(split, {})[pair] = len(lines)
    card = {"format": 1, "benchmark": "toy", "corpus": "toy", "languages": codes, "pairs": pairs, "splits": splits}
    card |= {"vocab_size": len(dictionary), "sources": [], "counts": {}, "checksums": {}}
    (path / "corpus.json").write_text(json.dumps(card, indent=1), encoding="utf-8")


def smallest_settings() -> dict[str, dict[str, Any]]:
    """What a checkpoint says of its model and task where a test needs no model: one of nearly no parameters."""
    sizes = {
        f"{side}_{size}": 1 for side in ("encoder", "decoder") for size in ("embed_dim", "ffn_embed_dim", "layers")
    }
    heads = {f"{side}_attention_heads": 1 for side in ("encoder", "decoder")}
    model = {"_name": "smoe_transformer", **sizes, **heads, "moe": "none"}
    return {"model": model, "task": {"_name": "many_to_many_translation"}}
