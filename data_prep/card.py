"""DATA_CARD.md: what a data folder holds and where it is from, for people. The same is in corpus.json for programs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from smoe_mt.language_codes import ENGLISH, pair_name
from smoe_mt.paper.benchmarks import BENCHMARKS
from smoe_mt.text_table import markdown_table

CARD = "DATA_CARD.md"
FIRST_SPLITS = ("train", "valid", "test")


def render(corpus: Mapping[str, Any], sizes: Mapping[str, int]) -> str:
    """The card of a corpus.json; ``sizes`` are bytes by file name."""
    return (
        "\n\n".join(
            (
                "# Data card",
                *_facts(corpus, sizes),
                *_sentences(corpus, sizes),
                *_cleaning(corpus),
                *_spelling(corpus),
                *_options(corpus),
                *_sources(corpus),
            )
        )
        + "\n"
    )


def split_names(splits: Iterable[str]) -> list[str]:
    """Train, valid and test first."""
    return [*FIRST_SPLITS, *sorted(set(splits) - set(FIRST_SPLITS))]


def steps_taken(corpus: Mapping[str, Any]) -> list[str]:
    """Cleaning steps, in order, that took something out of some pair."""
    counts = corpus["counts"].values()
    steps = dict.fromkeys(step for found in counts for step in found)
    return [step for step in steps if any(found.get(step) for found in counts)]


def _facts(corpus: Mapping[str, Any], sizes: Mapping[str, int]) -> Iterable[str]:
    pairs, zero_shot = corpus["pairs"], corpus["zero_shot"]
    lines = [
        f"Corpus `{corpus['corpus']}`" + (f", benchmark {corpus['benchmark']}" if corpus["benchmark"] else ""),
        f"{len(corpus['languages'])} languages: {', '.join(corpus['languages'])}",
        f"{2 * len(pairs)} directions: both ways of {', '.join(pairs)}",
        f"{corpus['vocab_size']:,} dictionary entries; {_megabytes(sizes.values())} MB",
    ]
    if zero_shot:
        lines.append(f"kept for zero-shot evaluation, without training text: {', '.join(zero_shot)}")
    if corpus["left_out"]:
        found = ", ".join(f"{pair} ({kept:,})" for pair, kept in corpus["left_out"].items())
        lines.append(f"left out, with too few clean pairs of sentences: {found}")
    for name, smaller in corpus.get("smaller", {}).items():
        found = ", ".join(f"{pair} ({got:,} of {asked:,})" for pair, (got, asked) in smaller.items())
        lines.append(f"{name}, fewer sentences than asked: {found}")
    if corpus["missing"]:
        lines.append(f"made without what could not be fetched: {', '.join(corpus['missing'])}")
    yield "\n".join(f"- {line}" for line in lines)


def _sentences(corpus: Mapping[str, Any], sizes: Mapping[str, int]) -> Iterable[str]:
    splits = corpus["splits"]
    names = split_names(splits)
    published = BENCHMARKS[corpus["benchmark"]].published if corpus["benchmark"] in BENCHMARKS else {}
    papers = {pair_name(language, ENGLISH): count for language, count in published.items()}
    yield "## Pairs of sentences"
    rows = []
    for pair in corpus["pairs"]:
        counts = [_number(splits.get(name, {}).get(pair, 0)) for name in names]
        paper = [_number(papers.get(pair, 0))] if papers else []
        rows.append([pair, *counts, *paper, _megabytes(size for name, size in sizes.items() if f".{pair}." in name)])
    total = [_number(sum(splits.get(name, {}).values())) for name in names]
    paper = [_number(sum(papers.get(pair, 0) for pair in corpus["pairs"]))] if papers else []
    header = ["pair", *names, *(["train in the paper"] if papers else []), "MB"]
    yield markdown_table(header, [*rows, ["all", *total, *paper, _megabytes(sizes.values())]], numbers=True)


def _megabytes(sizes: Iterable[int]) -> str:
    return f"{sum(sizes) / 1e6:,.1f}"


def _cleaning(corpus: Mapping[str, Any]) -> Iterable[str]:
    steps = steps_taken(corpus)
    yield "## Cleaning"
    yield "Pairs of sentences read, what each step took out, and what was kept before valid and test were drawn."
    rows = [[pair, *(_number(found.get(step, 0)) for step in steps)] for pair, found in corpus["counts"].items()]
    yield markdown_table(["pair", *steps], rows, numbers=True)


def _spelling(corpus: Mapping[str, Any]) -> Iterable[str]:
    yield "## What the vocabulary can write"
    yield (
        "Held-out sentences (valid, test) that change when they are split into pieces and joined again: no model of this "
        "vocabulary can produce them as they are."
    )
    rows = [
        [
            language,
            _number(found["sentences"]),
            f"{found['changed'] / max(found['sentences'], 1):.1%}",
            ", ".join(f"{name} ({times:,})" for name, times in found["lost"]) or "-",
        ]
        for language, found in corpus["spelling"].items()
    ]
    yield markdown_table(["language", "sentences", "changed", "characters lost most"], rows, numbers=True)


def _options(corpus: Mapping[str, Any]) -> Iterable[str]:
    yield "## Options"
    options = {
        f"{group}.{name}": value
        for group, values in corpus["options"].items()
        for name, value in (values.items() if isinstance(values, dict) else [("", values)])
    }
    yield "\n".join(f"- {name.strip('.')}: {value}" for name, value in options.items())


def _sources(corpus: Mapping[str, Any]) -> Iterable[str]:
    yield "## Sources"
    rows = [
        [
            record["name"],
            record["version"][:24],
            record["licence"],
            record["via"],
            _number(sum(record["pairs"].values())),
        ]
        for record in corpus["sources"]
    ]
    yield markdown_table(["source", "version or SHA-256", "licence", "by", "pairs of sentences"], rows, numbers=True)


def _number(value: int) -> str:
    return f"{value:,}"
