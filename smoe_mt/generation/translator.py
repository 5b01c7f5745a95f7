"""One object that translates: raw sentences in, raw sentences out, in the order they came."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor
from tqdm import tqdm

from smoe_mt.errors import UserError
from smoe_mt.generation.batching import batch_by_tokens
from smoe_mt.generation.beam import BeamDecoder, Decoding
from smoe_mt.generation.checkpoint import LoadedModel, load_model

LONG = 200  # sentences from which on a person at a terminal wants to see progress


class Translator:
    """A trained model that translates between the languages it knows.

    >>> translator = Translator.from_pretrained("runs/smoe", data="data/m4")
    >>> translator.translate(["Dumela"], source="nso", target="en")
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded

    @classmethod
    def from_pretrained(cls, path: str | Path, data: str | Path | None = None, device: str = "auto") -> Translator:
        """`path`: a checkpoint or a run folder; `data`: the data folder, where it was moved; `device`: auto, cpu or cuda.

        Raises UserError for what cannot be loaded.
        """
        return cls(load_model(path, data, device))

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
        progress: bool | Callable[[int], object] | None = None,
    ) -> list[str]:
        """Translate each of `lines` from `source` to `target`; an empty line stays empty.

        Batches hold up to `max_tokens` source tokens; what else is in a batch does not change a translation. Lines longer
        than the model's positions are cut, with a warning. `progress`: a bar on stderr (None: where a person watches a long
        job), or a function that is told after each batch how many sentences it had. Raises UserError for an unknown
        direction or setting.
        """
        self.check(source, target)
        decoding = Decoding(beam, lenpen, max_len_a, max_len_b)
        outputs = [""] * len(lines)
        places = [place for place, line in enumerate(lines) if line.strip()]
        encoded = [self._encode(lines[place], target) for place in places]
        decoder = BeamDecoder(self.loaded.model, self.loaded.task.dictionary, decoding)
        with _reporter(progress, len(lines), f"{source}-{target}") as report:
            report(len(lines) - len(places))
            for batch in batch_by_tokens([len(tokens) for tokens in encoded], max_tokens):
                for index, hypotheses in zip(batch, decoder([encoded[index] for index in batch])):
                    outputs[places[index]] = self.loaded.task.decode(hypotheses[0].tokens)
                report(len(batch))
        return outputs

    def _encode(self, line: str, target: str) -> Tensor:
        tokens = self.loaded.task.encode(line.strip(), target)
        longest = self.loaded.model.max_positions()[0]
        if len(tokens) <= longest:
            return tokens
        warnings.warn(
            f"a sentence of {len(tokens)} tokens ({line.strip()[:30]!r}...) is cut to the {longest} that the model takes",
            stacklevel=3,
        )
        kept = tokens[:longest].clone()
        kept[-1] = tokens[-1]
        return kept


@contextmanager
def _reporter(
    progress: bool | Callable[[int], object] | None, total: int, title: str
) -> Iterator[Callable[[int], object]]:
    if callable(progress):
        yield progress
        return
    shown = (total >= LONG and sys.stderr.isatty()) if progress is None else progress
    with tqdm(total=total, desc=title, unit="sent", disable=not shown, file=sys.stderr) as bar:
        yield bar.update
