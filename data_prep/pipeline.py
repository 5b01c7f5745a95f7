"""The stages in their order: fetch, extract, clean, split, spm, binarise. Each is done once for the same inputs and
options; cleaning and binarising are done once a pair. All of them read and write streams.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from data_prep import folder as data_folder
from data_prep import spelling
from data_prep.binarise import LONGEST_TRAINING, Vocabulary, binarise_pair
from data_prep.card import CARD, render
from data_prep.clean import CleanOptions
from data_prep.cleaning import Filters, clean_pair
from data_prep.corpora.base import TRAIN, Corpus
from data_prep.files import read_json, say
from data_prep.language_check import Identifier
from data_prep.rows import languages_of, read_rows
from data_prep.split import TEST, VALID, Cleaned, SplitOptions, split
from data_prep.spm import SpmOptions, balanced_sample, size_for, train_spm
from data_prep.stages import DONE, run_stage
from smoe_mt.checksums import sealed, sha256_value
from smoe_mt.errors import UserError
from smoe_mt.files import write_bytes, write_json, write_lines
from smoe_mt.folder_lock import FolderLock
from smoe_mt.language_codes import is_english
from smoe_mt.languages import two_letter_codes
from smoe_mt.paths import check_utf8

RECIPE = 3  # of this code: another number makes every stage run again
HELD_OUT, BEYOND, SKIPPED = "strings held out", "beyond --max-pairs", "longer than 250 pieces"

Counts = dict[str, dict[str, int]]


@dataclass(frozen=True)
class Options:
    """All that changes what comes out."""

    clean: CleanOptions = field(default_factory=CleanOptions)
    split: SplitOptions = field(default_factory=SplitOptions)
    spm: SpmOptions = field(default_factory=SpmOptions)
    max_pairs: int | None = None


@dataclass(frozen=True)
class Work:
    """What the stages share."""

    corpus: Corpus
    options: Options
    folder: Path
    workers: int


def build(corpus: Corpus, options: Options, out: Path, workers: int, refresh: bool = False) -> dict[str, Any]:
    """Make the data folder, going on from what an interrupted run has finished. Returns the contents of corpus.json."""
    check_utf8(out)  # it would be made, and no training could open it
    wanted = [list(corpus.pairs.trained), list(corpus.pairs.zero_shot), corpus.minimum]
    request = [RECIPE, corpus.name, corpus.benchmark, wanted, corpus.identity(), asdict(options)]
    if data_folder.is_complete(out, request) and not refresh:
        say(f"{out} is already complete, made from the same text with the same options: nothing to do")
        data_folder.finish(out)  # a run that was killed may have left it
        done = dict(read_json(out / data_folder.CORPUS))
        _say_missing(done["missing"])
        return done
    with FolderLock.take(out, "a preparation", "choose another --out"):
        work = Work(corpus, options, data_folder.start(out), workers)
        value, folders = _run_stages(work, request)
        return _finish(out, work, {"format": data_folder.FORMAT, "request": sha256_value(request), **value}, folders)


def _run_stages(work: Work, request: list[Any]) -> tuple[dict[str, Any], list[Path]]:
    """What corpus.json says of the text, and the folders whose files make up the data folder."""
    corpus, options = work.corpus, work.options
    fetched = corpus.fetch()
    extracted, records, mark = run_stage(
        work.folder, "extract", [request[:5], fetched], lambda folder: _extract(work, folder)
    )
    cleaned, counts, left_out = _clean(work, extracted, mark)
    divided, sizes, mark = run_stage(
        work.folder,
        "split",
        [mark, asdict(options.clean), asdict(options.split), options.max_pairs, sorted(cleaned)],
        lambda folder: _split(work, extracted, cleaned, counts, folder),
    )
    smaller = _smaller(extracted, options.split, sizes["sizes"])
    _say_smaller(smaller)
    pairs = sorted({pair for by_pair in sizes["sizes"].values() for pair in by_pair})
    spm, _, mark = run_stage(
        work.folder, "spm", [mark, asdict(options.spm)], lambda folder: _spm(work, divided, folder)
    )
    spelt = run_stage(work.folder, "spelling", [mark], lambda folder: _spelling(divided, spm))[1]
    spelling.warn(spelt, options.spm.normalisation)
    folders, result = _binarise(work, pairs, divided, spm, mark)
    for pair in cleaned:
        counts[pair] |= {HELD_OUT: sizes["shared"][pair], BEYOND: sizes["beyond"].get(pair, 0)}
        counts[pair][SKIPPED] = result["too_long"].get(pair, 0)
    value = {
        "benchmark": corpus.benchmark,
        "corpus": corpus.name,
        "languages": _languages(pairs),
        "pairs": pairs,
        "zero_shot": [pair for pair in pairs if pair in corpus.pairs.zero_shot],
        "splits": result["splits"],
        "smaller": smaller,
        "vocab_size": result["vocab_size"],
        "spelling": spelt,
        "sources": records,
        "missing": fetched["missing"],
        "left_out": left_out,
        "counts": counts,
        "options": asdict(options),
    }
    return value, [spm, *folders]


def _finish(out: Path, work: Work, value: dict[str, Any], folders: list[Path]) -> dict[str, Any]:
    """Move all into the data folder; corpus.json, without which it is no data folder, comes last."""
    card = work.folder / "card"
    card.mkdir(exist_ok=True)
    sizes = {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and path.name != DONE
    }
    write_bytes(card / CARD, render(value, sizes).encode())
    value["checksums"] = data_folder.publish(out, [*folders, card], {DONE})
    value = sealed(value)
    write_json(out / data_folder.CORPUS, value)
    data_folder.finish(out)
    _say_missing(value["missing"])
    return value


def _say_missing(names: list[str]) -> None:
    if names:
        say(f"made without {', '.join(names)}: run again with --refresh to try to fetch them again")


def _languages(pairs: Iterable[str]) -> list[str]:
    return sorted({language for pair in pairs for language in languages_of(pair)})


def _extract(work: Work, folder: Path) -> list[dict[str, Any]]:
    return [asdict(record) for record in work.corpus.extract(folder, work.workers)]


def _clean(work: Work, extracted: Path, mark: str) -> tuple[dict[str, Cleaned], Counts, dict[str, int]]:
    """The clean text of each pair that reaches the minimum, the counts after each step, and the clean pairs of
    sentences of those that do not.
    """
    cleaned, counts, left_out = {}, {}, {}
    options = work.options
    inputs = [mark, asdict(options.clean), asdict(options.split)]
    for pair in tqdm(work.corpus.pairs.all, desc="clean", unit="pair"):
        path = extracted / f"{TRAIN}.{pair}.tsv"
        if path.is_file():
            name = f"clean/{pair}"
            folder, done, _ = run_stage(work.folder, name, inputs, partial(_clean_pair, work, path))
            cleaned[pair], counts[pair] = Cleaned(folder, done["kept"]), done
        kept = counts.get(pair, {}).get("kept", 0)
        if kept < work.corpus.minimum and _must_be_large(work.corpus, pair):
            left_out[pair] = kept
    _say_below_minimum(work.corpus, left_out)
    kept_pairs = {pair: text for pair, text in cleaned.items() if pair not in left_out}
    if not any(pair in kept_pairs for pair in work.corpus.pairs.trained):
        raise UserError(f"no pair reaches the minimum of {work.corpus.minimum:,} sentences: see --min-pairs")
    return kept_pairs, {pair: counts[pair] for pair in kept_pairs}, left_out


def _must_be_large(corpus: Corpus, pair: str) -> bool:
    """Whether the minimum is meant for a pair: a benchmark's is for the languages, so for their text with English."""
    return pair in corpus.pairs.trained and (corpus.benchmark is None or any(map(is_english, languages_of(pair))))


def _say_below_minimum(corpus: Corpus, left_out: Mapping[str, int]) -> None:
    if not left_out:
        return
    found = ", ".join(f"{pair} {kept:,}" for pair, kept in left_out.items())
    said = f"below the minimum of {corpus.minimum:,} clean pairs of sentences: {found}"
    if not corpus.optional:
        raise UserError(
            f"{said}; see above for what could not be fetched and run again with --refresh, leave languages out with "
            "--directions, or give a lower --min-pairs"
        )
    say(f"{said}; left out")


def _clean_pair(work: Work, path: Path, folder: Path) -> dict[str, int]:
    pair = path.stem.partition(".")[2]
    languages = languages_of(pair)
    clean = work.options.clean
    identifier = Identifier.of(languages, two_letter_codes(languages)) if clean.identify else None
    filters = Filters(pair, clean, work.options.split, work.corpus.placeholders, identifier)
    return clean_pair(read_rows(path), filters, folder, work.workers)


def _split(work: Work, extracted: Path, cleaned: dict[str, Cleaned], counts: Counts, folder: Path) -> dict[str, Any]:
    """Writes ``{split}.{pair}.tsv``; returns the sizes by split and pair, and what each pair lost."""
    pairs = {*cleaned, *work.corpus.pairs.zero_shot}
    given: dict[str, dict[str, Path]] = {}
    for path in sorted(extracted.glob("*.tsv")):
        name, pair = path.stem.split(".")
        if name != TRAIN and pair in pairs:
            given.setdefault(name, {})[pair] = path
    options = work.options
    splits = split(cleaned, given, options.split, folder, options.max_pairs, work.corpus.pairs.zero_shot, work.workers)
    for pair in [pair for pair, size in splits.sizes.get(TRAIN, {}).items() if not size]:
        message = _nothing_left(pair, counts[pair] | {HELD_OUT: splits.shared[pair]})
        if work.corpus.benchmark is None or any(map(is_english, languages_of(pair))):
            raise UserError(f"{message}; give more text")
        say(message)
        del splits.sizes[TRAIN][pair]
    return {"sizes": splits.sizes, "shared": splits.shared, "beyond": splits.beyond}


def _smaller(extracted: Path, options: SplitOptions, sizes: Counts) -> dict[str, dict[str, list[int]]]:
    """Sets that were drawn and have fewer sentences than asked: split -> pair -> [sentences, asked]."""
    found: dict[str, dict[str, list[int]]] = {}
    for name in (VALID, TEST):
        for pair in sorted(sizes.get(TRAIN, {})):
            got, asked = sizes.get(name, {}).get(pair, 0), options.size(name)
            if got < asked and not (extracted / f"{name}.{pair}.tsv").is_file():
                found.setdefault(name, {})[pair] = [got, asked]
    return found


def _say_smaller(smaller: Mapping[str, Mapping[str, list[int]]]) -> None:
    for name, pairs in smaller.items():
        sets = ", ".join(f"{pair} {got:,} of {asked:,}" for pair, (got, asked) in pairs.items())
        say(f"{name}: fewer sentences than --{name}-size asks for, as there is little text: {sets}")


def _nothing_left(pair: str, counts: dict[str, int]) -> str:
    taken = ", ".join(f"{step}: {count}" for step, count in counts.items() if count and step not in ("read", "kept"))
    return f"{pair}: none of {counts['read']} pairs is left to train on ({taken or 'too few'})"


def _spm(work: Work, divided: Path, folder: Path) -> None:
    texts: dict[str, list[tuple[Path, int]]] = {}
    for path in sorted(divided.glob(f"{TRAIN}.*.tsv")):
        for column, language in enumerate(languages_of(path.stem.partition(".")[2]), 1):
            texts.setdefault(language, []).append((path, column))
    options = work.options.spm
    characters = balanced_sample(texts.items(), folder, options, work.workers)
    size = size_for(characters, options)
    say(f"spm: learning {size:,} pieces from {characters:,} characters")
    model = train_spm(folder / "sample", size, options)
    (folder / "sample").unlink()
    write_bytes(folder / "spm.model", model)


def _spelling(divided: Path, spm: Path) -> dict[str, dict[str, Any]]:
    return spelling.measure_held_out((spm / "spm.model").read_bytes(), divided)


def _binarise(work: Work, pairs: list[str], divided: Path, spm: Path, mark: str) -> tuple[list[Path], dict[str, Any]]:
    """Folders of all files of the data folder but the model, and the sizes by split and pair."""
    model = (spm / "spm.model").read_bytes()
    vocabulary = Vocabulary.of(model, _languages(pairs))
    counts = np.zeros(len(vocabulary), dtype=np.int64)
    splits: Counts = {}
    too_long: dict[str, int] = {}
    folders = []
    for path in tqdm(sorted(divided.glob("*.tsv")), desc="binarise", unit="file"):
        name, pair = path.stem.split(".")
        folder, done, _ = run_stage(
            work.folder,
            f"binarise/{path.stem}",
            [mark, list(vocabulary.tags)],
            partial(_binarise_file, path, model, len(vocabulary), work.workers),
        )
        splits.setdefault(name, {})[pair] = done["written"]
        if name == TRAIN:
            too_long[pair] = done["too_long"]
            np.add.at(counts, *map(np.array, zip(*done["counts"])))
        folders.append(folder)
    names, _, _ = run_stage(
        work.folder, "names", [mark, pairs], lambda folder: _names(folder, pairs, vocabulary, counts)
    )
    return [names, *folders], {"splits": splits, "too_long": too_long, "vocab_size": vocabulary.padded_size}


def _binarise_file(path: Path, model: bytes, vocabulary_size: int, workers: int, folder: Path) -> dict[str, Any]:
    """One split of one pair, with its text unless it is training text; ids and how often each was written."""
    name, pair = path.stem.split(".")
    prefixes = [f"{name}.{pair}.{language}" for language in languages_of(pair)]
    longest = LONGEST_TRAINING if name == TRAIN else None
    rows = ((row.first, row.second) for row in read_rows(path))
    done = binarise_pair(rows, (folder / prefixes[0], folder / prefixes[1]), model, vocabulary_size, longest, workers)
    if not done.written:
        raise UserError(
            f"{pair}: every sentence of {name} is longer than {LONGEST_TRAINING} pieces; give shorter sentences"
        )
    if name != TRAIN:
        (folder / "text").mkdir()
        for side, prefix in enumerate(prefixes, 1):
            write_lines(folder / "text" / prefix, (row[side] for row in read_rows(path)))
    seen = np.flatnonzero(done.counts)
    return {
        "written": done.written,
        "too_long": done.too_long,
        "counts": list(zip(seen.tolist(), done.counts[seen].tolist())),
    }


def _names(folder: Path, pairs: list[str], vocabulary: Vocabulary, counts: np.ndarray) -> None:
    """dict.txt and directions.txt."""
    vocabulary.write(folder / "dict.txt", counts)
    write_lines(folder / "directions.txt", _directions(pairs))


def _directions(pairs: Iterable[str]) -> Iterator[str]:
    for pair in pairs:
        yield pair
        yield "-".join(reversed(languages_of(pair)))
