"""Translate text with one model and score it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

from omegaconf import OmegaConf

from smoe_mt.bleu_tokenizers import AUTO
from smoe_mt.errors import UserError
from smoe_mt.evaluation.files import Results
from smoe_mt.evaluation.identity import variant
from smoe_mt.evaluation.measured import measured_blocks
from smoe_mt.evaluation.metrics import DEFAULT_METRICS, Corpus, Metric
from smoe_mt.evaluation.parallel_files import ParallelFiles
from smoe_mt.evaluation.ranks import Ranks
from smoe_mt.evaluation.result import Evaluation
from smoe_mt.evaluation.scores import BASELINES, DirectionScores, score
from smoe_mt.evaluation.seeds import setting_of
from smoe_mt.evaluation.selection import choose_directions, direction_names, directions_with_text, read_text
from smoe_mt.evaluation.standing import training_of
from smoe_mt.evaluation.untrained import read_untrained
from smoe_mt.generation import Decoding, RoutingOptions, Text, Translator
from smoe_mt.processes import map_unordered, processes_for
from smoe_mt.progress import progress_bar
from smoe_mt.tasks.data_folder import DIRECTION, split_direction
from smoe_mt.tasks.pieces import FolderPieces
from smoe_mt.text import FORM, normalise

BYTES_TO_SCORE = 1 << 28  # of a process, at most
WINDOW = 4000  # sentences that are translated together, and at most lost where an evaluation is interrupted


@dataclass(frozen=True)
class Request:
    """What to evaluate: a split, all of its directions or some, or parallel files of the user's instead; all sentences or the first
    `limit` of each direction; with which metrics, and which tokenizer for BLEU; on how many processes (None: see `Translator.translate`);
    with the routing of the training or another.
    """

    split: str = "test"
    directions: tuple[str, ...] = ()
    limit: int | None = None
    decoding: Decoding = field(default_factory=Decoding)
    max_tokens: int = 4096
    processes: int | None = None
    parallel_files: ParallelFiles | None = None
    metrics: tuple[Metric, ...] = DEFAULT_METRICS
    tokenize: str = AUTO
    routing: RoutingOptions = field(default_factory=RoutingOptions)

    @property
    def title(self) -> str:
        """A short name of the text."""
        return self.parallel_files.title if self.parallel_files else self.split

    @property
    def result(self) -> str:
        """The name of its result: the text's, and all that is not the usual: "test", "test.first-20.beam-1"."""
        return ".".join(
            [
                self.title,
                *variant(direction_names(self.directions), self.limit, self.decoding, self.tokenize, self.routing),
            ]
        )


def read_texts(translator: Translator, request: Request) -> list[Corpus]:
    """The text to translate, a corpus without hypotheses for each direction.

    Raises UserError for an unknown split or direction, and for files that do not fit together.
    """
    task = translator.loaded.task
    if request.parallel_files:
        _check_direction(translator, request.parallel_files.direction)
        texts = [request.parallel_files.read()]
    else:
        untrained = [name for name in dict.fromkeys(direction_names(request.directions)) if name not in task.directions]
        for direction in untrained:
            _check_direction(translator, direction)
        wanted = [name for name in direction_names(request.directions) if name not in untrained]
        trained = (
            choose_directions(task, request.split, wanted or request.directions) if wanted or not untrained else ()
        )
        texts = [read_text(task, request.split, direction) for direction in trained]
        texts += [read_untrained(task, request.split, direction) for direction in untrained]
    pieces = FolderPieces(task.spm)
    return [replace(in_one_form(text.first(request.limit)), pieces=pieces, tokenize=request.tokenize) for text in texts]


def _check_direction(translator: Translator, direction: str) -> None:
    """UserError for what is no direction, and for one that the model cannot be asked for."""
    if not DIRECTION.fullmatch(direction):
        raise UserError(f"unknown direction {direction!r}: the model knows {', '.join(translator.directions)}")
    translator.check(*split_direction(direction))


def in_one_form(text: Corpus) -> Corpus:
    """Sources and references in the form that hypotheses have: canonically equal strings score as equal."""
    sources, references = (tuple(map(normalise, lines)) for lines in (text.sources, text.references))
    return replace(text, sources=sources, references=references)


def evaluate(
    translator: Translator, texts: Sequence[Corpus], request: Request, name: str, results: Results, ranks: Ranks
) -> Evaluation | None:
    """Translate and score; a progress bar on stderr all the way. Hypotheses that `results` has are not made again.

    All of `ranks` take part in the translation; the first returns the evaluation, the others None.
    """
    started = time.monotonic()
    about = _about(translator, texts, request, name)
    if ranks.first:
        results.refuse_to_replace(texts, about)
    kept = ranks.tell({text.direction: results.kept(text) for text in texts} if ranks.first else {})
    corpora = _translate(translator, texts, kept, request, name, results, ranks)
    if not ranks.first:
        return None
    processes = processes_for(next(translator.loaded.model.parameters()).device, request.processes, BYTES_TO_SCORE)
    scores, baselines = _score(corpora, request.metrics, name, processes)
    measured = measured_blocks(translator, corpora, request.decoding)
    details = {
        **about,
        **({} if measured is None else {"measured": measured}),
        "reused": [direction for direction, hypotheses in kept.items() if hypotheses is not None],
        "processes": ranks.size,
        "seconds": round(time.monotonic() - started, 1),
    }
    evaluation = Evaluation(name, tuple(corpora), scores, baselines, details, request.metrics)
    results.finish(corpora, evaluation.as_json())
    return evaluation


def _about(translator: Translator, texts: Sequence[Corpus], request: Request, name: str) -> dict[str, Any]:
    """Which model translated what, and how. `left_out`: what the text has besides what was translated."""
    loaded, own, decoding = translator.loaded, request.parallel_files, request.decoding
    together = len(translator.models) > 1
    translated = {text.direction for text in texts}
    return {
        "name": name,
        "checkpoint": str(loaded.checkpoint.absolute()),
        **({"ensemble": [str(each.checkpoint.absolute()) for each in translator.models]} if together else {}),
        "updates": loaded.updates,
        "training": training_of(loaded),
        "seed": OmegaConf.select(loaded.config, "common.seed"),  # None: an exported model does not say
        "setting": setting_of(loaded.config, loaded.updates),
        "benchmark": None if own else loaded.task.folder.card.get("benchmark"),
        "split": None if own else request.split,
        "source": str(own.source.absolute()) if own else None,
        "reference": str(own.reference.absolute()) if own else None,
        "limit": request.limit,
        "zero_shot": sorted(translated - set(translator.directions)),
        "left_out": {
            "sentences": sum(text.left_out for text in texts),
            "directions": [] if own else sorted(directions_with_text(loaded.task, request.split) - translated),
        },
        "text_form": FORM,
        "tokenize": request.tokenize,
        **asdict(decoding),
        **asdict(translator.routing),
        **({"calibrated": translator.calibrations} if translator.calibrations else {}),
    }


def _translate(
    translator: Translator,
    texts: Sequence[Corpus],
    kept: dict[str, tuple[str, ...] | None],
    request: Request,
    name: str,
    results: Results,
    ranks: Ranks,
) -> list[Corpus]:
    """The texts with hypotheses on the first rank, with those of its own part on others."""
    found = {text.direction: text.translated(kept[text.direction] or ()) for text in texts}
    new = [text for text in texts if kept[text.direction] is None]
    with progress_bar(sum(len(text.sources) for text in texts), f"{name}: translating", shown=ranks.first) as bar:
        bar.update(sum(len(corpus.hypotheses) for corpus in found.values()))
        for together in windows(new):
            directions = [text.direction for text in together]
            bar.set_postfix_str(" ... ".join(dict.fromkeys((directions[0], directions[-1]))))
            for text, hypotheses in zip(together, _translate_shared(translator, together, request, ranks, bar.update)):
                found[text.direction] = text.translated(hypotheses)
                if ranks.first:
                    results.keep(found[text.direction])
    return list(found.values())


def windows(texts: Sequence[Corpus]) -> Iterator[list[Corpus]]:
    """The texts in turn, as many at a time as make `WINDOW` sentences."""
    window: list[Corpus] = []
    for text in texts:
        window.append(text)
        if sum(len(each.sources) for each in window) >= WINDOW:
            yield window
            window = []
    if window:
        yield window


def _translate_shared(
    translator: Translator, texts: Sequence[Corpus], request: Request, ranks: Ranks, report: Callable[[int], object]
) -> list[list[str]]:
    """The hypotheses of each text, on the first rank; each rank translates its share of them."""
    places = [ranks.share([len(line) for line in text.sources]) for text in texts]
    mine = [
        Text([text.sources[place] for place in own], *text.direction.split("-")) for text, own in zip(texts, places)
    ]
    translations = translator.translate_together(
        mine,
        request.decoding,
        max_tokens=request.max_tokens,
        processes=request.processes,
        progress=lambda done: report(done * ranks.size),
    )
    translator.serve()
    parts = [[(place, one.text) for place, one in zip(*own)] for own in zip(places, translations)]
    hypotheses = [[""] * len(text.sources) for text in texts]
    for part in ranks.gather(parts):
        for lines, own in zip(hypotheses, part):
            for place, translation in own:
                lines[place] = translation
    return hypotheses


def _score(
    corpora: Sequence[Corpus], metrics: Sequence[Metric], name: str, processes: int
) -> tuple[dict[str, DirectionScores], dict[str, dict[str, DirectionScores]]]:
    def of_direction(number: int, here: bool) -> list[DirectionScores]:
        corpus, chosen = corpora[number], [metric for metric in metrics if metric.in_one_process is here]
        return [score(each, chosen) for each in (corpus, *(translate(corpus) for translate in BASELINES.values()))]

    found: list[list[DirectionScores]] = [[]] * len(corpora)
    with progress_bar(sum(len(corpus.sources) for corpus in corpora), f"{name}: scoring") as bar:
        for number, scores in map_unordered(partial(of_direction, here=False), len(corpora), processes):
            both = zip(scores, of_direction(number, here=True), strict=True)
            found[number] = [one.joined(other) for one, other in both]
            bar.update(len(corpora[number].sources))
    directions = [corpus.direction for corpus in corpora]
    own, *baselines = (dict(zip(directions, column)) for column in zip(*found, strict=True))
    return own, dict(zip(BASELINES, baselines, strict=True))
