"""The sections of a report, in their order."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from omegaconf import OmegaConf

from smoe_mt.analysis.cost import FITTED_CONTEXT
from smoe_mt.evaluation.significance import LEVEL, RESAMPLES
from smoe_mt.evaluation.standing import remarks
from smoe_mt.paper.scores import TABLES
from smoe_mt.report.content import Code, Examples, Picture, Section, Sentences, Table, Text
from smoe_mt.report.curve_figures import curve_pictures, load_picture
from smoe_mt.report.curves import Curves
from smoe_mt.report.examples import examples
from smoe_mt.report.outputs import differences
from smoe_mt.report.public_context import public_context
from smoe_mt.report.quality import points_of, quality_picture, quality_table
from smoe_mt.report.run import Run
from smoe_mt.report.strata import Analysis
from smoe_mt.report.tables import overview, pairs_table, paper_table, scores_table, signatures, sources_table, summary

Blocks = list[Text | Table | Picture | Code | Sentences | Examples]
PARTS = ("model", "task", "criterion", "optimizer", "lr_scheduler", "optimization", "dataset", "checkpoint", "common")


def sections(
    runs: Sequence[Run],
    analyses: Mapping[str, Analysis | Text],
    curves: Mapping[str, Curves | None],
    split: str,
) -> list[Section]:
    """All sections; a section that lacks its input says so. Analyses and curves by the names of the runs."""
    return [
        Section("Result", _result(runs, analyses, split)),
        Section("Scores", _scores(runs)),
        *([Section("Beside the paper", paper)] if (paper := _paper(runs, split)) else []),
        *([Section("Public scores, for context", public)] if (public := public_context(runs, split)) else []),
        *([Section("Quality and cost", quality)] if (quality := _quality(runs, split)) else []),
        Section("Translations", examples(runs, split)),
        Section("Training curves", _curves(runs, curves)),
        Section("What the gates do", _gates(analyses, split)),
        Section("Sentences by capacity", _sentences(analyses)),
        Section("Data", _data(runs)),
        Section("Configuration", [overview(runs), *(Code(run.name, _yaml(run)) for run in runs)]),
    ]


def _result(runs: Sequence[Run], analyses: Mapping[str, Analysis | Text], split: str) -> Blocks:
    compared = differences(runs, split)
    text = (
        f"Scores are means over the directions of split {split}. Parameters in millions (M); activated: all but those of experts "
        "that a token does not visit, of the visited ones as many hidden units as the gates were measured to ask for. FLOPs: a "
        "forward pass of one token through encoder and decoder with these units, as smoe-mt flops counts them: attention over "
        f"{FITTED_CONTEXT:,} positions. Training time is that of the checkpoint, on whatever it was trained on."
    )
    blocks: Blocks = [summary(runs, analyses, split, compared.found), Text(text)]
    if compared.found:
        counts = {f"{one.tested:,} of {one.sentences:,}" for one in compared.found.values()}
        blocks.append(
            Text(
                f"Difference: chrF++ of all sentences together minus that of {runs[0].name}; in brackets p by paired bootstrap "
                f"resampling ({RESAMPLES:,} samples; {', '.join(sorted(counts))} sentences). Below {LEVEL} one is held to be "
                "better. Bold and underlined: the highest score and the lowest cost of a column."
            )
        )
    return blocks + list(compared.remarks)


def _scores(runs: Sequence[Run]) -> Blocks:
    blocks: Blocks = [
        Text(f"{run.name} was not evaluated: run smoe-mt evaluate {run.folder}", missing=True)
        for run in runs
        if not run.scores
    ]
    for split in dict.fromkeys(split for run in runs for split in run.scores):
        blocks += [scores_table(runs, split), Text(signatures(runs, split))]
        blocks += [Text(line) for line in remarks({run.name: run.scores[split] for run in runs if split in run.scores})]
    for run in runs:
        blocks += [
            Text(
                f"{run.name}: the scores of {split} are of update {run.scores[split]['updates']}, and the checkpoint is of "
                f"{run.updates:,} now; evaluate again",
                missing=True,
            )
            for split in run.outdated
        ]
    return blocks


def _paper(runs: Sequence[Run], split: str) -> Blocks:
    benchmarks = dict.fromkeys(str(run.card.get("benchmark")) for run in runs if run.card)
    known = [benchmark for benchmark in benchmarks if benchmark in TABLES]
    if not known:
        return []
    blocks: Blocks = []
    for benchmark in known:
        mine = [run for run in runs if run.card and run.card.get("benchmark") == benchmark]
        corpus = ", ".join(dict.fromkeys(str(run.card.get("corpus")) for run in mine if run.card))
        blocks.append(paper_table(mine, split, benchmark))
        blocks.append(
            Text(
                f"Marked: runs of this report, on split {split} of the corpus {corpus}. Scores compare only where text, model "
                "size, updates and tokenisation of BLEU are alike. The paper's were probably computed on SentencePiece pieces "
                "of its NLLB data, with FLORES-200 as its test set (OPUS-100: its own); ours are sacreBLEU's on raw text."
            )
        )
        if not any(split in run.scores for run in mine):
            blocks.append(Text(f"No run of this report was evaluated on split {split}.", missing=True))
    return blocks


def _quality(runs: Sequence[Run], split: str) -> Blocks:
    """Nothing for runs with a result each: the first table says as much."""
    points = points_of(runs, split)
    settings = {point.setting for point in points}
    return [quality_picture(points), quality_table(points)] if settings - {""} else []


def _curves(runs: Sequence[Run], curves: Mapping[str, Curves | None]) -> Blocks:
    found = {name: one for name, one in curves.items() if one is not None}
    blocks: Blocks = [
        Text(f"{name} has neither TensorBoard events nor a log of its training.", missing=True)
        for name in curves
        if name not in found
    ]
    blocks += curve_pictures(found)
    for number, run in enumerate(runs, start=1):
        if run.name not in found or not run.sparse:
            continue
        blocks.append(load_picture(run, found[run.name], number))
    return blocks


def _gates(analyses: Mapping[str, Analysis | Text], split: str) -> Blocks:
    blocks: Blocks = []
    for number, (name, analysis) in enumerate(analyses.items(), start=1):
        if isinstance(analysis, Text):
            blocks.append(analysis)
            continue
        numbers = analysis.numbers
        text = f"{name} ({numbers['model']}, {numbers['updates']:,} updates) reads the references of split {split}, teacher-forced."
        if numbers.get("limit"):
            text += f" Only the first {numbers['limit']} sentences of each direction were read."
        text += f" Token frequencies were counted in {numbers['ranks']}; tokens below {numbers['min_count']} occurrences in a "
        text += f"direction are no candidates. All numbers: {analysis.folder}"
        blocks.append(Text(text))
        if numbers["collapsed"] and numbers["strata"] > 1:
            blocks.append(Text(f"Collapsed, all tokens alike: {', '.join(numbers['collapsed'])}", missing=True))
        blocks += analysis.pictures(number)
    return blocks


def _sentences(analyses: Mapping[str, Analysis | Text]) -> Blocks:
    shown = {name: one.sentences() for name, one in analyses.items() if isinstance(one, Analysis)}
    shown = {name: one for name, one in shown.items() if one["strata"] > 1 and one["directions"]}
    if not shown:
        return [Text("No run of this report has strata: every token gets the same capacity.", missing=True)]
    return [
        Text(
            "The first sentences of a direction, as the model reads them: the source with the tag of the target language in the "
            "encoder, the reference behind </s> in the decoder. The darker a token, the more strata process it; the small "
            "number says how many, as a mean over the blocks that are chosen."
        ),
        Sentences(shown),
    ]


def _data(runs: Sequence[Run]) -> Blocks:
    blocks: Blocks = []
    for folder in dict.fromkeys(run.data for run in runs):
        run = next(run for run in runs if run.data == folder)
        if run.card is None:
            blocks.append(Text(f"{folder} is not there: no data card; say where it is with --data", missing=True))
            continue
        card = run.card
        languages = ", ".join(card.get("languages", ()))
        benchmark = f"benchmark {card['benchmark']}, " if card.get("benchmark") else ""
        text = f"{folder}: {benchmark}corpus {card.get('corpus')}, languages {languages}"
        blocks += [Text(f"{text}, {card.get('vocab_size', 0):,} entries in the dictionary."), pairs_table(card)]
        blocks += [sources_table(card)] if card.get("sources") else []
        blocks.append(Code("corpus.json", json.dumps(card, indent=1, ensure_ascii=False)))
    return blocks


def _yaml(run: Run) -> str:
    return OmegaConf.to_yaml(OmegaConf.create({part: run.config[part] for part in PARTS if run.config.get(part)}))
