"""One object that translates: raw sentences in, raw sentences out, in the order they came."""

from __future__ import annotations

import itertools
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from smoe_mt.errors import UserError
from smoe_mt.generation.batching import batch_by_tokens
from smoe_mt.generation.checkpoint import LoadedModel, load_model
from smoe_mt.generation.details import Candidate, Translation, visits_of_pairs
from smoe_mt.generation.memory import bytes_to_search
from smoe_mt.generation.routing import Rerouting, check_rank, rerouting, weakened
from smoe_mt.generation.routing_options import RoutingOptions
from smoe_mt.generation.sentences import SplitText, check_split
from smoe_mt.generation.texts import Text, each_line
from smoe_mt.processes import chunks, map_unordered, processes_for
from smoe_mt.search.beam import BeamDecoder, Decoding, Hypothesis
from smoe_mt.search.steps import Contrast, Ensemble, StepScorer, scorer_of
from smoe_mt.text import normalise

Progress = bool | Callable[[int], object] | None
AHEAD = 64  # lines of a stream
LONG = 200  # sentences from which on a person at a terminal wants to see progress
SHORTEST_BATCH = 512  # tokens for which a process is worth while
BATCHES_EACH = 2  # at least, of a process


class Translator:
    """A trained model that translates between the languages it knows.

    >>> translator = Translator.from_pretrained("runs/smoe")
    >>> translator.translate(["Dumela"], source="nso", target="en")
    >>> translator.translate_in_detail(["Dumela"], "nso", "en", nbest=3, routing=True)[0].candidates

    Several threads may share one: searches with the same model wait for each other, since a search keeps its beam size and
    routing in the model. It can be pickled, weights included, for processes that do not inherit it; those need the data folder
    at the same place. `Translator(...)(lines, source, target)` is `translate`.
    """

    def __init__(self, loaded: LoadedModel, *others: LoadedModel, routing: RoutingOptions | None = None) -> None:
        """`others`: what `loaded` translates together with; `routing`: another one than in training, of all of them. UserError
        where they cannot."""
        self.loaded = loaded
        self.models = (loaded, *others)
        self._said: set[str] = set()  # untrained directions that were warned of
        for other in others:
            check_fit_together(loaded, other)
        self.routing = routing or RoutingOptions()
        self.reroutings = tuple(rerouting(each, self.routing) for each in self.models)

    def __getstate__(self) -> dict[str, Any]:
        """All but what belongs to the modules of the models: those are built anew."""
        calibrated = [each.calibrated for each in self.reroutings]
        return {"models": self.models, "said": self._said, "routing": self.routing, "calibrated": calibrated}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.models, self._said, self.routing = state["models"], state["said"], state["routing"]
        self.loaded = self.models[0]
        pairs = zip(self.models, state["calibrated"], strict=True)
        self.reroutings = tuple(rerouting(each, self.routing, calibrated) for each, calibrated in pairs)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path | Sequence[str | Path],
        data: str | Path | None = None,
        device: str = "auto",
        dtype: str = "fp32",
        expert_parallel_size: int = 1,
        verify: bool = False,
        routing: RoutingOptions | None = None,
    ) -> Translator:
        """`path`: a checkpoint, a run folder, a folder that `smoe-mt export` wrote, or OWNER/NAME on the model hub (needs the
        extra `hub`); several of them translate as an ensemble, by the mean of their probabilities. `data`: the data folder,
        where it was moved; `device`: auto, cpu or cuda; `dtype`: fp32, bf16, fp16 or (on a CPU) int8.

        `expert_parallel_size`: number of ranks of torch.distributed that share the experts. Each translates its own sentences,
        and calls `serve` when it has nothing left.

        `verify`: read all of the data folder, even what was found sound before. `routing`: another one than in training, such as
        `RoutingOptions(test_top_k=1)` or `RoutingOptions(capacity="mean=1.5")`.

        Raises UserError for what cannot be loaded, or has no such routing.
        """
        paths: list[Any] = list(path) if isinstance(path, (list, tuple)) else [path]
        if not paths:
            raise UserError("no model: give a checkpoint, a run folder or an exported folder")
        for each in paths:
            if not isinstance(each, (str, Path)):
                raise UserError(f"path: give the path of a model, or a list of paths, not {type(each).__name__}")
        models = [load_model(each, data, device, dtype, expert_parallel_size, verify) for each in paths]
        return cls(*models, routing=routing)

    def __repr__(self) -> str:
        checkpoints = ", ".join(str(each.checkpoint) for each in self.models)
        return f"<Translator {checkpoints}: {len(self.directions)} directions of {', '.join(self.languages)}>"

    def __call__(self, lines: Iterable[str], source: str, target: str, **options: Any) -> list[str]:
        """`translate`."""
        return self.translate(lines, source, target, **options)

    @property
    def calibrations(self) -> list[str]:
        """What was measured for a mean of visits, a line for each model."""
        return [str(each.calibrated) for each in self.reroutings if each.calibrated is not None]

    def serve(self) -> None:
        """With experts spread over ranks: compute for the others until all have come here. Else it returns at once."""
        for each in self.models:
            each.task.serve_other_ranks()

    @property
    def directions(self) -> tuple[str, ...]:
        """The directions that the model was trained on; of an ensemble, those that all of its models know."""
        known = [set(each.task.directions) for each in self.models]
        return tuple(direction for direction in self.loaded.task.directions if all(direction in one for one in known))

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages that the model knows."""
        return tuple(sorted({language for direction in self.directions for language in direction.split("-")}))

    def check(self, source: str, target: str) -> None:
        """UserError, naming what is known, unless the model can be asked to translate from `source` to `target`.

        Any language that it knows may be the source, and any that it was trained to translate into the target. A direction that
        it was not trained on is warned of, once.
        """
        direction, trained = f"{source}-{target}", self.directions
        if direction in trained:
            return
        for language in (source, target):
            if language not in self.languages:
                raise UserError(f"unknown language {language!r}: the model knows {', '.join(self.languages)}")
        if source == target:
            raise UserError(f"source and target are both {source}: the model was not trained to repeat a sentence")
        sources, targets = (tuple(dict.fromkeys(one.split("-")[side] for one in trained)) for side in (0, 1))
        if target not in targets:
            raise UserError(
                f"the model cannot translate into {target}: it was trained to translate into {', '.join(targets)} alone, so the "
                f"tag that asks for {target} means nothing to it"
            )
        if direction not in self._said:
            self._said.add(direction)
            unread = "" if source in sources else f", nor to translate from {source} at all"
            warnings.warn_explicit(
                f"{direction} is zero-shot: the model was not trained on this direction{unread}; expect worse translations",
                *(UserWarning, __file__, 0),
            )

    def translate(
        self,
        lines: Iterable[str],
        source: str,
        target: str,
        *,
        beam: int = 5,
        lenpen: float = 1.0,
        max_len_a: float = 2.0,
        max_len_b: int = 10,
        max_tokens: int = 4096,
        processes: int | None = 1,
        progress: Progress = None,
        prefix: str | Iterable[str] | None = None,
        split_sentences: bool = False,
        contrast: float | None = None,
        contrast_rank: int = 2,
        contrast_alpha: float = 0.1,
        contrast_encoder: bool = False,
    ) -> list[str]:
        """Translate each of `lines` from `source` to `target`; a line without text stays empty.

        `prefix`: how the translations have to begin, one text for all or one for each line; it may end within a word.
        `split_sentences`: a line may hold several sentences, which are translated one by one and joined again (needs the
        extra `split`); white space around a line stays. `contrast` and what belongs to it: see `Decoding`.
        Batches hold up to `max_tokens` source tokens; what else is in a batch does not change a translation. Lines longer
        than the model's positions are cut, with a warning. `processes` of one thread each share the batches on a CPU (None:
        as many as torch would use threads, where there is memory for them). `progress`: a bar on stderr (None: where a person
        watches a long job), or a function that is told after each batch how many sentences it had. Raises UserError for an
        unknown direction or setting.
        """
        decoding = Decoding(
            beam,
            lenpen,
            max_len_a,
            max_len_b,
            contrast=contrast,
            contrast_rank=contrast_rank,
            contrast_alpha=contrast_alpha,
            contrast_encoder=contrast_encoder,
        )
        found = self.translate_in_detail(
            lines,
            source,
            target,
            decoding,
            prefix,
            split_sentences=split_sentences,
            max_tokens=max_tokens,
            processes=processes,
            progress=progress,
        )
        return [translation.text for translation in found]

    def stream(
        self, lines: Iterable[str], source: str, target: str, *, ahead: int = AHEAD, **options: Any
    ) -> Iterator[str]:
        """Translate lines as they come, which may be without end: `ahead` of them are read and translated together.

        `options`: as of `translate`; a prefix is one text for all. Raises UserError as `translate`, at once for what can be told
        without the lines.
        """
        _check_number("ahead", ahead, 1)
        if not isinstance(options.get("prefix"), (str, type(None))):
            raise UserError("prefix: give one text for all lines of a stream")
        self.translate([], source, target, **options)
        return (
            translation
            for some in chunks(each_line(lines), ahead)
            for translation in self.translate(some, source, target, **options)
        )

    def translate_in_detail(
        self,
        lines: Iterable[str],
        source: str,
        target: str,
        decoding: Decoding | None = None,
        prefix: str | Iterable[str] | None = None,
        **options: Any,
    ) -> list[Translation]:
        """As `translate`, with what `translate_together` can tell besides. Raises UserError as `translate`."""
        return self.translate_together([Text.of(lines, source, target, prefix)], decoding, **options)[0]

    def translate_together(
        self,
        texts: Sequence[Text],
        decoding: Decoding | None = None,
        *,
        nbest: int = 1,
        routing: bool = False,
        split_sentences: bool = False,
        max_tokens: int = 4096,
        processes: int | None = 1,
        progress: Progress = None,
    ) -> list[list[Translation]]:
        """The translations of each of `texts`, whatever its direction: sentences of equal length share batches.

        Each line gets the `nbest` best (at most the beam; a search may end with fewer), their scores and, with `routing`, the
        visits of every source and target piece. With `split_sentences` a line has one candidate, the best of each of its
        sentences joined, whose score is their sum; `progress` counts sentences. Raises UserError as `translate`.
        """
        for text in texts:
            self.check(text.source, text.target)
        if split_sentences:
            check_split(nbest, routing)
            split = [SplitText.of(text) for text in texts]
            translated = self.translate_together(
                [each.sentences for each in split],
                decoding,
                max_tokens=max_tokens,
                processes=processes,
                progress=progress,
            )
            return [each.joined(mine) for each, mine in zip(split, translated)]
        decoding = decoding or Decoding()
        _check_number("nbest", nbest, 1, decoding.beam)
        _check_number("max_tokens", max_tokens, 1)
        if processes is not None:
            _check_number("processes", processes, 1)
        if routing and len(self.models) > 1:
            raise UserError("routing is that of one model: ask each model of the ensemble for its own")
        if decoding.contrast is not None:
            for each in self.models:
                check_rank(each, decoding.contrast_rank)
        lines = [(line, text.target) for text in texts for line in text.lines]
        found = [Translation(line, (Candidate("", 0.0),)) for line, _ in lines]
        places = [place for place, (line, _) in enumerate(lines) if normalise(line)]
        encoded = [self._encode(*lines[place]) for place in places]
        prefixes = self._encode_prefixes(texts, places)
        batches, processes = self._share_out([len(tokens) for tokens in encoded], decoding, max_tokens, processes)
        decoder = BeamDecoder(self._scorer(decoding), self.loaded.task.dictionary, decoding)

        def search(number: int) -> list[tuple[Candidate, ...]]:
            sources = [encoded[index] for index in batches[number]]
            begun = [prefixes[index] for index in batches[number]] if prefixes else ()
            best = [hypotheses[:nbest] for hypotheses in decoder(sources, begun)]
            return list(self._candidates(sources, best, routing, max_tokens))

        with _reporter(progress, len(lines), ", ".join(f"{text.source}-{text.target}" for text in texts)) as report:
            report(len(lines) - len(places))
            with self._models_to_itself():
                for number, candidates in map_unordered(search, len(batches), processes):
                    for index, mine in zip(batches[number], candidates, strict=True):
                        found[places[index]] = Translation(lines[places[index]][0], mine)
                    report(len(batches[number]))
        rest = iter(found)
        return [list(itertools.islice(rest, len(text.lines))) for text in texts]

    @contextmanager
    def _models_to_itself(self) -> Iterator[None]:
        """No other thread searches with these models meanwhile. Locks are taken in one order, so that none wait in a circle."""
        with ExitStack() as stack:
            for each in sorted(self.models, key=lambda loaded: id(loaded.lock)):
                stack.enter_context(each.lock)
            yield

    def _scorer(self, decoding: Decoding) -> StepScorer:
        members = [_member(*each, decoding) for each in zip(self.models, self.reroutings, strict=True)]
        return members[0] if len(members) == 1 else Ensemble(members)

    def _share_out(
        self, lengths: Sequence[int], decoding: Decoding, max_tokens: int, processes: int | None
    ) -> tuple[list[list[int]], int]:
        """Batches of at most `max_tokens` tokens, smaller ones where processes would have none, and the number of these."""
        device = next(self.loaded.model.parameters()).device
        if self.loaded.task.expert_ranks is not None:
            if processes is not None and processes > 1:
                raise UserError("experts are spread over ranks: start more of these, and leave out --processes")
            processes = 1
        most = processes_for(device, processes, each=0)
        if most > 1:
            max_tokens = min(max_tokens, max(SHORTEST_BATCH, sum(lengths) // (most * BATCHES_EACH)))
        batches = batch_by_tokens(lengths, max_tokens)
        shapes = [(len(batch), lengths[batch[0]]) for batch in batches]
        each = sum(bytes_to_search(one.model, shapes, decoding) for one in self.models)
        return batches, processes_for(device, processes, each)

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
            with self.reroutings[0].opened():
                visits = visits_of_pairs(task, self.loaded.model, [source for source, _ in pairs], targets, max_tokens)
        candidates = iter(
            Candidate(text, hypothesis.score, *mine) for text, (_, hypothesis), mine in zip(texts, pairs, visits)
        )
        for mine in best:
            yield tuple(itertools.islice(candidates, len(mine)))

    def _encode_prefixes(self, texts: Sequence[Text], places: Sequence[int]) -> list[Tensor]:
        """Of the lines at these places; empty where no text has any. UserError for one that no output can begin with."""
        if not any(text.prefixes for text in texts):
            return []
        lines = [line for text in texts for line in text.prefixes or [""] * len(text.lines)]
        found = [self.loaded.task.encode_prefix(lines[place]) for place in places]
        longest = self._scorer(Decoding()).longest
        for place, tokens in zip(places, found):
            if self.loaded.task.dictionary.unk() in tokens.tolist():
                raise UserError(f"prefix {lines[place][:30]!r}: the model's vocabulary lacks a letter of it")
            if len(tokens) > longest:
                raise UserError(
                    f"prefix {lines[place][:30]!r}...: {len(tokens)} tokens, and an output of the model has at most {longest}"
                )
        return found

    def _encode(self, line: str, target: str) -> Tensor:
        tokens = self.loaded.task.encode(line, target)
        longest = min(each.model.max_positions()[0] for each in self.models)
        if len(tokens) <= longest:
            return tokens
        # Python's usual way keeps each different text of a warning for ever.
        warnings.warn_explicit(
            f"a sentence of {len(tokens)} tokens ({line.strip()[:30]!r}...) is cut to the {longest} that the model takes",
            *(UserWarning, __file__, 0),
        )
        kept = tokens[:longest].clone()
        kept[-1] = tokens[-1]
        return kept


def _member(loaded: LoadedModel, routing: Rerouting, decoding: Decoding) -> StepScorer:
    """The scores of one model, or of its contrast."""
    member = scorer_of(loaded.model, routing.opened)
    if decoding.contrast is None:
        return member
    weak = partial(weakened, loaded.model, decoding.contrast_rank)
    return Contrast(member, weak, decoding.contrast, decoding.contrast_alpha, decoding.contrast_encoder)


def _check_number(name: str, value: Any, least: int, most: int | None = None) -> None:
    wanted = f"{least} or more, a whole number" if most is None else f"from {least} to the beam size, {most}"
    if isinstance(value, bool) or not isinstance(value, int) or value < least or (most is not None and value > most):
        raise UserError(f"{name} is {value!r}: it must be {wanted}")


def check_fit_together(one: LoadedModel, other: LoadedModel) -> None:
    """UserError, naming both, for models of different vocabularies, or without a direction that both know."""
    pair = f"{one.checkpoint} and {other.checkpoint} cannot translate together"
    ours, theirs = one.task.vocabulary, other.task.vocabulary
    if (ours.size, ours.sha256) != (theirs.size, theirs.sha256):
        raise UserError(f"{pair}: their vocabularies differ ({ours}; {theirs}); take models of one data folder")
    if not set(one.task.directions) & set(other.task.directions):
        raise UserError(f"{pair}: there is no direction that both know")


@contextmanager
def _reporter(progress: Progress, total: int, title: str) -> Iterator[Callable[[int], object]]:
    if callable(progress):
        yield progress
        return
    shown = (total >= LONG and sys.stderr.isatty()) if progress is None else progress
    with tqdm(total=total, desc=title, unit="sent", disable=not shown, file=sys.stderr) as bar:
        yield bar.update
