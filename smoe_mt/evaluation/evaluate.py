"""Translate a split with one model and score it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from smoe_mt.evaluation.files import write_evaluation
from smoe_mt.evaluation.metrics import METRICS, Corpus
from smoe_mt.evaluation.progress import progress_bar
from smoe_mt.evaluation.scores import BASELINES, DirectionScores, as_json, score
from smoe_mt.evaluation.seeds import setting_of
from smoe_mt.evaluation.selection import choose_directions, read_text
from smoe_mt.generation import Decoding, Translator

FORMAT = 1


@dataclass(frozen=True)
class Request:
    """What to evaluate: a split, all of its directions or some, all sentences or the first `limit` of each direction."""

    split: str = "test"
    directions: tuple[str, ...] = ()
    limit: int | None = None
    decoding: Decoding = field(default_factory=Decoding)
    max_tokens: int = 4096


@dataclass(frozen=True)
class Evaluation:
    """The result: text and scores of every direction, and those of each baseline."""

    name: str
    corpora: tuple[Corpus, ...]
    scores: dict[str, DirectionScores]
    baselines: dict[str, dict[str, DirectionScores]]
    details: dict[str, Any]

    @property
    def benchmark(self) -> str | None:
        """The benchmark whose text was translated, if it is one's."""
        return self.details.get("benchmark")

    def as_json(self) -> dict[str, Any]:
        """The content of scores.json."""
        return {
            "format": FORMAT,
            **self.details,
            "metrics": {metric.name: metric.meaning for metric in METRICS},
            **as_json(self.scores, self.benchmark),
            "baselines": {name: as_json(scores, self.benchmark) for name, scores in self.baselines.items()},
            "versions": _versions(),
        }

    def write(self, folder: Path) -> Path:
        """Write hypotheses and scores.json into `folder`; returns the latter's path."""
        return write_evaluation(folder, self.corpora, self.as_json())


def evaluate(translator: Translator, request: Request, name: str) -> Evaluation:
    """Translate and score; a progress bar on stderr all the way. Raises UserError for an unknown split or direction."""
    started = time.monotonic()
    task = translator.loaded.task
    directions = choose_directions(task, request.split, request.directions)
    texts = [read_text(task, request.split, direction, request.limit) for direction in directions]
    corpora = _translate(translator, texts, request, name)
    scores, baselines = _score(corpora, name)
    details = {
        "name": name,
        "checkpoint": str(translator.loaded.checkpoint.absolute()),
        "updates": translator.loaded.updates,
        "seed": translator.loaded.config.common.seed,
        "setting": setting_of(translator.loaded.config, translator.loaded.updates),
        "benchmark": task.folder.card.get("benchmark"),
        "split": request.split,
        "limit": request.limit,
        "beam": request.decoding.beam,
        "lenpen": request.decoding.lenpen,
        "max_len_a": request.decoding.max_len_a,
        "max_len_b": request.decoding.max_len_b,
        "seconds": round(time.monotonic() - started, 1),
    }
    return Evaluation(name, tuple(corpora), scores, baselines, details)


def _translate(translator: Translator, texts: Sequence[Corpus], request: Request, name: str) -> list[Corpus]:
    decoding = request.decoding
    corpora = []
    with progress_bar(sum(len(text.sources) for text in texts), f"{name}: translating") as bar:
        for text in texts:
            bar.set_postfix_str(text.direction)
            source, target = text.direction.split("-")
            hypotheses = translator.translate(
                text.sources,
                source,
                target,
                beam=decoding.beam,
                lenpen=decoding.lenpen,
                max_len_a=decoding.max_len_a,
                max_len_b=decoding.max_len_b,
                max_tokens=request.max_tokens,
                progress=bar.update,
            )
            corpora.append(Corpus(text.direction, text.sources, tuple(hypotheses), text.references))
    return corpora


def _score(
    corpora: Sequence[Corpus], name: str
) -> tuple[dict[str, DirectionScores], dict[str, dict[str, DirectionScores]]]:
    scores: dict[str, DirectionScores] = {}
    baselines: dict[str, dict[str, DirectionScores]] = {baseline: {} for baseline in BASELINES}
    with progress_bar(sum(len(corpus.sources) for corpus in corpora), f"{name}: scoring") as bar:
        for corpus in corpora:
            scores[corpus.direction] = score(corpus)
            for baseline, translate in BASELINES.items():
                baselines[baseline][corpus.direction] = score(translate(corpus))
            bar.update(len(corpus.sources))
    return scores, baselines


def _versions() -> dict[str, str]:
    found = {}
    for package, distribution in {
        "smoe_mt": "smoe_mt",
        "sacrebleu": "sacrebleu",
        "torch": "torch",
        "fairseq": "fairseq-fixed",
    }.items():
        try:
            found[package] = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            found[package] = "unknown"
    return found
