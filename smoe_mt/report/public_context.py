"""Published scores of public models beside those of the runs, as context, and what is not comparable."""

from __future__ import annotations

from collections.abc import Sequence

from smoe_mt.evaluation.metrics import METRICS
from smoe_mt.evaluation.table import BASELINE_METRIC
from smoe_mt.report.content import Table, Text
from smoe_mt.report.public_scores import PublicScores, public_scores
from smoe_mt.report.run import Run
from smoe_mt.report.tables import NONE, number

TEST_SPLIT, TEST_SOURCE = "test", "flores200_devtest"  # of text that `prepare --corpus public` made


def public_context(runs: Sequence[Run], split: str) -> list[Table | Text]:
    """A table for the split and for each other evaluation of FLORES, with what is not comparable; empty where no direction
    that was evaluated has published scores.
    """
    public = public_scores()
    titles = dict.fromkeys(title for run in runs for title in run.scores if title == split or _named_flores(title))
    found: list[Table | Text] = []
    for title in titles:
        table = public_table(runs, title, public)
        if table:
            found += [table, Text(_text_of(runs, title, public))]
    if found:
        found += [Text(_models_and_source(public)), *_left_out(runs, list(titles), public)]
    return found


def public_table(runs: Sequence[Run], title: str, public: PublicScores) -> Table | None:
    """A row for each direction that has published scores, chrF++ of all runs and public models first; None without a row.
    A metric that only one side has gets no columns.
    """
    ours = {run.name: run.scores[title]["directions"] for run in runs if title in run.scores}
    directions = [
        direction
        for direction in dict.fromkeys(direction for one in ours.values() for direction in one)
        if any(public.of(direction, metric.name) for metric in METRICS)
    ]
    columns: list[str] = []
    cells: list[list[str]] = []
    minor: set[int] = set()
    for metric in sorted(METRICS, key=lambda metric: metric.name != BASELINE_METRIC):
        mine = [[one.get(direction, {}).get(metric.name) for direction in directions] for one in ours.values()]
        theirs = [[public.of(each, metric.name).get(model) for each in directions] for model in public.models]
        found = [[number(value, metric.decimals) for value in column] for column in mine + theirs]
        if not (_any_number(found[: len(mine)]) and _any_number(found[len(mine) :])):
            continue
        if columns:
            minor |= set(range(len(columns) + 1, len(columns) + len(found) + 1))
        columns += [f"{name}: {metric.title}" for name in (*ours, *public.models.values())]
        cells += found
    if not columns:
        return None
    rows = [[direction, *(column[place] for column in cells)] for place, direction in enumerate(directions)]
    theirs_on = f"{', '.join(public.models.values())} on {public.test_set}"
    return Table(
        ("Direction", *columns),
        rows,
        f"Ours on {title}; {theirs_on}",
        name=f"public scores beside {title}",
        minor=frozenset(minor),
    )


def is_flores(run: Run, title: str) -> bool:
    """Whether a run's evaluation was of FLORES: its text is called so, or the data folder's test set comes from there."""
    sources = (run.card or {}).get("sources") or ()
    return _named_flores(title) or (
        title == TEST_SPLIT and any(TEST_SOURCE in str(source.get("name")) for source in sources)
    )


def _named_flores(title: str) -> bool:
    return "flores" in title.lower()


def _any_number(columns: Sequence[Sequence[str]]) -> bool:
    return any(cell != NONE for column in columns for cell in column)


def _text_of(runs: Sequence[Run], title: str, public: PublicScores) -> str:
    evaluated = [run for run in runs if title in run.scores]
    flores = [run for run in evaluated if is_flores(run, title)]
    if not flores:
        return (
            f"Context, not a comparison: ours were measured on other text ({title}) than theirs ({public.test_set}), and "
            "scores of different texts do not compare."
        )
    names = "Ours" if len(flores) == len(evaluated) else f"Those of {', '.join(run.name for run in flores)}"
    return (
        f"{names} were measured on text of FLORES too ({title}). Theirs are of {public.test_set}: scores compare only where "
        f"that is the same text, all {public.sentences:,} sentences of it."
    )


def _models_and_source(public: PublicScores) -> str:
    titles = {metric.name: metric.title for metric in METRICS}
    signatures = "; ".join(f"{titles[metric]} {signature}" for metric, signature in public.signatures.items())
    commits = ", ".join(commit[:12] for commit in public.commits)
    return (
        "The NLLB-200 models have 600 million (distilled) and 3.3 billion parameters and were trained on far more text of "
        f"some 200 languages. {public.test_set} is public, so text of it may be in anyone's training data. Signatures of theirs: "
        f"{signatures}. Source: {public.source}, commits {commits}, read on {public.read}."
    )


def _left_out(runs: Sequence[Run], titles: Sequence[str], public: PublicScores) -> list[Text]:
    """Why directions of the runs have no row, by reason."""
    reasons: dict[str, list[str]] = {}
    for run in runs:
        for title in titles:
            for direction in run.scores.get(title, {}).get("directions", {}):
                reason = public.why_not(direction)
                if reason and direction not in reasons.setdefault(reason, []):
                    reasons[reason].append(direction)
    return [Text(f"Left out: {', '.join(directions)}. {reason}") for reason, directions in reasons.items()]
