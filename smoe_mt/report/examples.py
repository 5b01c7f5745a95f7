"""The models' own outputs beside source and reference, chosen by a rule and not by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from smoe_mt.errors import UserError
from smoe_mt.evaluation.metrics import Corpus
from smoe_mt.report.content import Example, Examples, Text
from smoe_mt.report.outputs import CHRF, read_outputs
from smoe_mt.report.run import Run
from smoe_mt.scores_file import partial

QUANTILES = {"lowest decile": 0.1, "median": 0.5, "highest decile": 0.9}
OPEN = 12  # directions; the others are folded
MOST = 100  # directions
CANDIDATES = 200  # sentences of a direction, evenly over it: scoring thousands of sentences one by one takes minutes
RULE = (
    "The models' own outputs. Which sentences are shown is decided by a rule: those of a direction are ranked by sentence chrF++"
    " (mean over the runs), and the ones at its lowest decile (10%), median and highest decile (90%) are shown, each with its "
    "chrF++. Ranked are all sentences, or {candidates} evenly over a direction that has more."
)


def examples(runs: Sequence[Run], split: str) -> list[Text | Examples]:
    """Sentences of each direction that a run has outputs for."""
    results = {run.name: found[1] for run in runs if (found := run.result_of(split))}
    names = list(dict.fromkeys(name for result in results.values() for name in result.scores["directions"]))
    remarks: dict[str, None] = {}
    shown = {}
    for direction in names[:MOST]:
        corpora = {}
        for name, result in results.items():
            if direction not in result.scores["directions"]:
                continue
            try:
                corpora[name] = read_outputs(result, direction)
            except UserError as error:
                remarks[f"{name}: {error}"] = None
        alike = same_text(corpora)
        for name in corpora.keys() - alike.keys():
            remarks[f"{name}: translated other sentences of {direction} than {next(iter(alike))}, left out here"] = None
        if alike:
            shown[direction] = chosen(alike)
    blocks: list[Text | Examples] = [Text(remark, missing=True) for remark in remarks]
    if not shown:
        return [*blocks, Text(f"There are no outputs on split {split}: evaluate first.", missing=True)]
    parts = [f"{name}: {partial(one.scores)}" for name, one in results.items() if partial(one.scores)]
    text = RULE.format(candidates=CANDIDATES) + "".join(f" Partial: {part}." for part in parts)
    if len(names) > len(shown):
        text += f" {len(shown)} of {len(names)} directions are shown; all outputs lie in "
        text += ", ".join(f"{result.folder}/hypotheses" for result in results.values()) + "."
    return [Text(text), *blocks, Examples(shown, OPEN)]


def same_text(corpora: Mapping[str, Corpus]) -> dict[str, Corpus]:
    """Those with the first one's sentences, all cut to the shortest: a run may have translated the first ones alone."""
    if not corpora:
        return {}
    first = next(iter(corpora.values()))
    found = {}
    for name, one in corpora.items():
        count = min(len(one.sources), len(first.sources))
        if (one.sources[:count], one.references[:count]) == (first.sources[:count], first.references[:count]):
            found[name] = one
    shortest = min(len(one.sources) for one in found.values())
    return {name: one.first(shortest).translated(one.hypotheses[:shortest]) for name, one in found.items()}


def chosen(corpora: Mapping[str, Corpus]) -> list[Example]:
    """The sentences at the quantiles, the worst first. `corpora`: the same text as each run translated it."""
    first = next(iter(corpora.values()))
    assert CHRF.scorer is not None
    scorer = CHRF.scorer(first)
    total = len(first.sources)
    count = min(total, CANDIDATES)
    scores = {
        line: {
            name: float(scorer.sentence_score(one.hypotheses[line], [one.references[line]]).score)
            for name, one in corpora.items()
        }
        for line in (place * total // count for place in range(count))
    }
    ranked = sorted(scores, key=lambda line: (sum(scores[line].values()), line))
    found: dict[int, str] = {}
    for title, quantile in QUANTILES.items():
        found.setdefault(ranked[round(quantile * (count - 1))], title)
    return [
        Example(
            title,
            line + 1,
            first.sources[line],
            first.references[line],
            {name: (one.hypotheses[line], scores[line][name]) for name, one in corpora.items()},
        )
        for line, title in found.items()
    ]
