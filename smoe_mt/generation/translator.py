"""One object that translates: raw sentences in, raw sentences out, in the order they came."""

from __future__ import annotations

import itertools
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from smoe_mt.errors import UserError
from smoe_mt.generation.batching import batch_by_tokens
from smoe_mt.generation.beam import BeamDecoder, Decoding, Hypothesis
from smoe_mt.generation.checkpoint import LoadedModel, load_model
from smoe_mt.generation.details import Candidate, Translation, visits_of_pairs

Progress = bool | Callable[[int], object] | None
LONG = 200  # sentences from which on a person at a terminal wants to see progress


class Translator:
    """A trained model that translates between the languages it knows.

    >>> translator = Translator.from_pretrained("runs/smoe")
    >>> translator.translate(["Dumela"], source="nso", target="en")
    >>> translator.translate_in_detail(["Dumela"], "nso", "en", nbest=3, routing=True)[0].candidates
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        data: str | Path | None = None,
        device: str = "auto",
        dtype: str = "fp32",
        expert_parallel_size: int = 1,
    ) -> Translator:
        """`path`: a checkpoint, a run folder, a folder that `smoe-mt export` wrote, or OWNER/NAME on the model hub (needs the
        extra `hub`); `data`: the data folder, where it was moved; `device`: auto, cpu or cuda; `dtype`: fp32, bf16 or fp16.

        `expert_parallel_size`: so many ranks of torch.distributed share out the experts. Each then translates what it likes,
        and calls `serve` when it has nothing left.

        Raises UserError for what cannot be loaded.
        """
        return cls(load_model(path, data, device, dtype, expert_parallel_size))

    def serve(self) -> None:
        """With experts spread over ranks: compute for the others until all have come here. Else it returns at once."""
        self.loaded.task.serve_other_ranks()

    @property
    def directions(self) -> tuple[str, ...]:
        """The directions that the model was trained on."""
        return tuple(self.loaded.task.directions)

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages that the model knows."""
        return tuple(sorted({language for direction in self.directions for language in direction.split("-")}))

    def check(self, source: str, target: str) -> None:
        """UserError, naming what is known, unless the model translates from `source` to `target`."""
        for language in (source, target):
            if language not in self.languages:
                raise UserError(f"unknown language {language!r}: the model knows {', '.join(self.languages)}")
        if f"{source}-{target}" not in self.directions:
            raise UserError(f"unknown direction {source}-{target}: the model knows {', '.join(self.directions)}")

    def translate(
        self,
        lines: Sequence[str],
        source: str,
        target: str,
        *,
        beam: int = 5,
        lenpen: float = 1.0,
        max_len_a: float = 2.0,
        max_len_b: int = 10,
        max_tokens: int = 4096,
        progress: Progress = None,
    ) -> list[str]:
        """Translate each of `lines` from `source` to `target`; an empty line stays empty.

        Batches hold up to `max_tokens` source tokens; what else is in a batch does not change a translation. Lines longer
        than the model's positions are cut, with a warning. `progress`: a bar on stderr (None: where a person watches a long
        job), or a function that is told after each batch how many sentences it had. Raises UserError for an unknown
        direction or setting.
        """
        decoding = Decoding(beam, lenpen, max_len_a, max_len_b)
        found = self.translate_in_detail(lines, source, target, decoding, max_tokens=max_tokens, progress=progress)
        return [translation.text for translation in found]

    def translate_in_detail(
        self,
        lines: Sequence[str],
        source: str,
        target: str,
        decoding: Decoding | None = None,
        *,
        nbest: int = 1,
        routing: bool = False,
        max_tokens: int = 4096,
        progress: Progress = None,
    ) -> list[Translation]:
        """As `translate`, with the `nbest` best of each line (at most the beam), their scores and, with `routing`, the visits
        of every source and target piece. A search may end with fewer than `nbest`. Raises UserError as `translate`.
        """
        self.check(source, target)
        decoding = decoding or Decoding()
        if not 1 <= nbest <= decoding.beam:
            raise UserError(f"nbest is {nbest}: it must be from 1 to the beam size, {decoding.beam}")
        found = [Translation(line, (Candidate("", 0.0),)) for line in lines]
        places = [place for place, line in enumerate(lines) if line.strip()]
        encoded = [self._encode(lines[place], target) for place in places]
        decoder = BeamDecoder(self.loaded.model, self.loaded.task.dictionary, decoding)
        with _reporter(progress, len(lines), f"{source}-{target}") as report:
            report(len(lines) - len(places))
            for batch in batch_by_tokens([len(tokens) for tokens in encoded], max_tokens):
                sources = [encoded[index] for index in batch]
                best = [hypotheses[:nbest] for hypotheses in decoder(sources)]
                for index, candidates in zip(batch, self._candidates(sources, best, routing, max_tokens)):
                    found[places[index]] = Translation(lines[places[index]], candidates)
                report(len(batch))
        return found

    def _candidates(
        self, sources: Sequence[Tensor], best: Sequence[Sequence[Hypothesis]], routing: bool, max_tokens: int
    ) -> Iterator[tuple[Candidate, ...]]:
        """The candidates of each source of a batch."""
        task = self.loaded.task
        pairs = [(source, hypothesis) for source, mine in zip(sources, best) for hypothesis in mine]
        texts = [task.decode(hypothesis.tokens) for _, hypothesis in pairs]
        visits: list[Any] = [(None, None)] * len(pairs)
        if routing:
            targets = [hypothesis.tokens for _, hypothesis in pairs]
            visits = visits_of_pairs(task, self.loaded.model, [source for source, _ in pairs], targets, max_tokens)
        candidates = iter(
            Candidate(text, hypothesis.score, *mine) for text, (_, hypothesis), mine in zip(texts, pairs, visits)
        )
        for mine in best:
            yield tuple(itertools.islice(candidates, len(mine)))

    def _encode(self, line: str, target: str) -> Tensor:
        tokens = self.loaded.task.encode(line.strip(), target)
        longest = self.loaded.model.max_positions()[0]
        if len(tokens) <= longest:
            return tokens
        warnings.warn(
            f"a sentence of {len(tokens)} tokens ({line.strip()[:30]!r}...) is cut to the {longest} that the model takes",
            stacklevel=4,
        )
        kept = tokens[:longest].clone()
        kept[-1] = tokens[-1]
        return kept


@contextmanager
def _reporter(progress: Progress, total: int, title: str) -> Iterator[Callable[[int], object]]:
    if callable(progress):
        yield progress
        return
    shown = (total >= LONG and sys.stderr.isatty()) if progress is None else progress
    with tqdm(total=total, desc=title, unit="sent", disable=not shown, file=sys.stderr) as bar:
        yield bar.update
