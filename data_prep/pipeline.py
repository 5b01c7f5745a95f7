"""The stages in their order: fetch, extract, split (with cleaning), spm, binarise. Each is done once for the same
inputs and options.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from data_prep import folder as data_folder
from data_prep.binarise import LONGEST_TRAINING, Vocabulary, binarise_pair
from data_prep.clean import CleanOptions, clean
from data_prep.corpora.base import TRAIN, Corpus
from data_prep.files import fingerprint, read_json, say, write_bytes, write_json, write_lines
from data_prep.rows import Row, languages_of, read_rows, write_rows
from data_prep.split import SplitOptions, split
from data_prep.spm import SpmOptions, balanced_sample, train_spm
from data_prep.stages import DONE, run_stage
from smoe_mt.errors import UserError

RECIPE = 1  # of this code: another number makes every stage run again
SKIPPED = "longer than 250 pieces"


@dataclass(frozen=True)
class Options:
    """All that changes what comes out."""

    clean: CleanOptions = field(default_factory=CleanOptions)
    split: SplitOptions = field(default_factory=SplitOptions)
    spm: SpmOptions = field(default_factory=SpmOptions)
    max_pairs: int | None = None


def build(corpus: Corpus, options: Options, out: Path, workers: int, refresh: bool = False) -> dict[str, Any]:
    """Make the data folder, going on from what an interrupted run has finished. Returns the contents of corpus.json."""
    request = [RECIPE, corpus.name, corpus.benchmark, corpus.identity(), asdict(options)]
    if data_folder.is_complete(out, request) and not refresh:
        say(f"{out} is complete already, made from the same text with the same options: nothing to do")
        done = dict(read_json(out / data_folder.CORPUS))
        _say_missing(done["missing"])
        return done
    work = data_folder.start(out)
    fetched = corpus.fetch()
    extracted, records, mark = run_stage(
        work, "extract", [request[:4], fetched], lambda folder: _extract(corpus, folder, workers)
    )
    divided, counts, mark = run_stage(
        work,
        "split",
        [mark, asdict(options.clean), asdict(options.split), options.max_pairs],
        lambda folder: _split(corpus, options, extracted, folder, workers),
    )
    pairs = sorted(counts)
    spm, _, mark = run_stage(
        work, "spm", [mark, asdict(options.spm)], lambda folder: _spm(pairs, options.spm, divided, folder)
    )
    binarised, result, _ = run_stage(
        work, "binarise", mark, lambda folder: _binarise(pairs, divided, spm, folder, workers)
    )
    for pair in pairs:
        counts[pair][SKIPPED] = result["too_long"].get(pair, 0)
    checksums = data_folder.publish(out, [spm, binarised], {DONE})
    value = {
        "format": data_folder.FORMAT,
        "request": fingerprint(request),
        "benchmark": corpus.benchmark,
        "corpus": corpus.name,
        "languages": _languages(pairs),
        "pairs": pairs,
        "splits": result["splits"],
        "vocab_size": result["vocab_size"],
        "sources": records,
        "missing": fetched["missing"],
        "counts": counts,
        "options": asdict(options),
        "checksums": checksums,
    }
    write_json(out / data_folder.CORPUS, value)
    shutil.rmtree(work)
    _say_missing(fetched["missing"])
    return value


def _say_missing(names: list[str]) -> None:
    if names:
        say(f"made without {', '.join(names)}: run again with --refresh to try to fetch them again")


def _languages(pairs: Iterable[str]) -> list[str]:
    return sorted({language for pair in pairs for language in languages_of(pair)})


def _extract(corpus: Corpus, folder: Path, workers: int) -> list[dict[str, Any]]:
    return [asdict(record) for record in corpus.extract(folder, workers)]


def _read_sets(extracted: Path) -> dict[str, dict[str, list[Row]]]:
    """Rows by split and pair."""
    sets: dict[str, dict[str, list[Row]]] = {}
    for path in sorted(extracted.glob("*.tsv")):
        name, pair = path.stem.split(".")
        sets.setdefault(name, {})[pair] = list(read_rows(path))
    return sets


def _split(corpus: Corpus, options: Options, extracted: Path, folder: Path, workers: int) -> dict[str, dict[str, int]]:
    """Clean and split; writes ``{split}.{pair}.tsv`` and returns the counts after each step by pair."""
    sets = _read_sets(extracted)
    raw = sets.pop(TRAIN, {})
    cleaned: dict[str, list[Row]] = {}
    counts: dict[str, dict[str, int]] = {}
    for pair, rows in tqdm(raw.items(), desc="clean", unit="pair"):
        cleaned[pair], counts[pair] = clean(rows, options.clean, corpus.placeholders, workers)
    sets = {name: {pair: rows for pair, rows in by_pair.items() if pair in cleaned} for name, by_pair in sets.items()}
    splits = split(cleaned, sets, options.split)
    for pair in cleaned:
        counts[pair]["strings held out"] = splits.shared[pair]
        if options.max_pairs is not None:
            train = splits.rows[TRAIN][pair]
            splits.rows[TRAIN][pair] = evenly_spaced(train, options.max_pairs)
            counts[pair]["beyond --max-pairs"] = len(train) - len(splits.rows[TRAIN][pair])
        if not splits.rows[TRAIN][pair]:
            raise UserError(_nothing_left(pair, counts[pair]))
    for name, by_pair in splits.rows.items():
        for pair, rows in by_pair.items():
            write_rows(folder / f"{name}.{pair}.tsv", rows)
    return counts


def evenly_spaced(rows: list[Row], most: int) -> list[Row]:
    """At most ``most`` of the rows, from all over the list."""
    return [rows[number * len(rows) // most] for number in range(most)] if len(rows) > most else rows


def _nothing_left(pair: str, counts: dict[str, int]) -> str:
    taken = ", ".join(f"{step}: {count}" for step, count in counts.items() if count and step not in ("read", "kept"))
    return f"{pair}: none of {counts['read']} pairs is left to train on ({taken or 'too few'}); give more text"


def _spm(pairs: list[str], options: SpmOptions, divided: Path, folder: Path) -> None:
    texts: dict[str, list[str]] = {}
    for pair in pairs:
        for row in read_rows(divided / f"{TRAIN}.{pair}.tsv"):
            for language, text in zip(languages_of(pair), (row.first, row.second)):
                texts.setdefault(language, []).append(text)
    sample = balanced_sample(texts, options.seed)
    say(f"spm: learning {options.vocab_size} pieces from {len(sample):,} sentences (a minute or so)")
    write_bytes(folder / "spm.model", train_spm(sample, options))


def _binarise(pairs: list[str], divided: Path, spm: Path, folder: Path, workers: int) -> dict[str, Any]:
    model = (spm / "spm.model").read_bytes()
    vocabulary = Vocabulary.of(model, _languages(pairs))
    counts = np.zeros(len(vocabulary), dtype=np.int64)
    splits: dict[str, dict[str, int]] = {}
    too_long: dict[str, int] = {}
    (folder / "text").mkdir()
    for path in tqdm(sorted(divided.glob("*.tsv")), desc="binarise", unit="file"):
        name, pair = path.stem.split(".")
        rows = list(read_rows(path))
        sides = [row.first for row in rows], [row.second for row in rows]
        one, other = (f"{name}.{pair}.{language}" for language in languages_of(pair))
        longest = LONGEST_TRAINING if name == TRAIN else None
        done = binarise_pair(sides, (folder / one, folder / other), model, len(vocabulary), longest, workers)
        if not done.written:
            raise UserError(
                f"{pair}: every sentence of {name} is longer than {LONGEST_TRAINING} pieces; give shorter sentences"
            )
        splits.setdefault(name, {})[pair] = done.written
        if name == TRAIN:
            counts += done.counts
            too_long[pair] = done.too_long
        else:
            for text_name, side in zip((one, other), sides):
                write_lines(folder / "text" / text_name, side)
    vocabulary.write(folder / "dict.txt", counts)
    directions = [direction for pair in pairs for direction in (pair, "-".join(reversed(languages_of(pair))))]
    write_lines(folder / "directions.txt", directions)
    return {"splits": splits, "too_long": too_long, "vocab_size": vocabulary.padded_size}
