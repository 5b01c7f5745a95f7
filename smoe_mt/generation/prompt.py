"""The prompt of ``smoe-mt translate``: sentences are translated, lines with a colon in front are commands."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TextIO

from smoe_mt.errors import UserError
from smoe_mt.generation.colours import coloured, legend, wanted
from smoe_mt.generation.details import Candidate, Translation
from smoe_mt.generation.job import Job
from smoe_mt.generation.lines import LONGEST_LINE, decode
from smoe_mt.generation.translator import Translator
from smoe_mt.language_codes import parse_pair
from smoe_mt.moe import SYSTEMS
from smoe_mt.moe.structure import groups_by_side
from smoe_mt.tasks.pieces import WORD_START
from smoe_mt.text import normalise

HELP = """A line is translated, unless it is one of these:
  :SRC-TGT    translate in this direction, such as {example}; a known direction works without the colon, too
  :nbest N    print the N best candidates
  :scores     print scores, or stop it
  :visits     colour tokens by the strata that processed them, mean over the blocks, or stop it
  :help       this
  :quit       end, as Ctrl-D does
A line with a space before its colon is translated.
Directions: {directions}"""


class Prompt:
    """A conversation with a person. The prompt and answers to commands go to stderr, so that stdout holds translations alone."""

    def __init__(self, job: Job, output: TextIO) -> None:
        self.job, self.output = job, output
        self.strata = strata_of_visits(job.translator)
        self.visits = self.strata > 1 and wanted(output) and not (job.args.json or job.args.routing)
        self.legend_is_due = True

    def converse(self) -> None:
        """Until ``:quit`` or the end of file."""
        directions = ", ".join(self.job.translator.directions)
        _say(f"Type a sentence and Enter; :help lists commands, :quit or Ctrl-D ends. Directions: {directions}")
        while True:
            print("-".join(self.job.direction), end="> ", file=sys.stderr, flush=True)
            typed = sys.stdin.buffer.readline(LONGEST_LINE)
            if not typed:
                _say("")
                return
            try:
                line = decode([typed.rstrip(b"\n")], "standard input", self.job.lines)[0]
                if line.strip() in (":quit", ":q"):
                    return
                if line.startswith(":") or line.strip() in self.job.translator.directions:
                    self._obey(*line.removeprefix(":").split())
                    continue
            except UserError as error:  # a slip of the hand ends no conversation
                _say(f"error: {error}")
                continue
            self._translate(line.strip())

    def _obey(self, name: str = "", *values: str) -> None:
        """Do what a command says. UserError for one that makes no sense."""
        args = self.job.args
        if name == "help" and not values:
            directions = self.job.translator.directions
            _say(HELP.format(example=directions[-1], directions=", ".join(directions)))
        elif name == "nbest":
            args.nbest = self._number_of_candidates(values)
        elif name == "scores" and not values:
            args.scores = not args.scores
            _say(f"scores are {'shown' if args.scores else 'not shown'}")
        elif name == "visits" and not values:
            self._switch_visits()
        elif (languages := parse_pair(name)) is not None and not values:
            source, target = languages
            self.job.translator.check(source, target)
            self.job.direction = source, target
        else:
            shown = " ".join((name, *values))
            raise UserError(
                f"no command :{shown}; :help lists them, and a space before the colon lets it be translated"
            )

    def _number_of_candidates(self, values: Sequence[str]) -> int:
        most = self.job.args.beam
        if len(values) != 1 or not (values[0].isdecimal() and 1 <= int(values[0][:9]) <= most):
            raise UserError(f":nbest needs a whole number from 1 to the beam size, {most}")
        return int(values[0])

    def _switch_visits(self) -> None:
        if self.job.args.json or self.job.args.routing:
            raise UserError("JSON is not coloured; --routing prints the visits")
        if self.strata < 2:
            raise UserError("there are no visits to show: they are those of one model whose blocks have several strata")
        if not wanted(self.output):
            raise UserError("visits are colours, which need a terminal as output, and NO_COLOR unset")
        self.visits = not self.visits
        _say(f"tokens are {'' if self.visits else 'not '}coloured by visits")

    def _translate(self, line: str) -> None:
        routing = self.visits or self.job.args.routing
        (found,) = self.job.found([line], routing)
        if self.visits and line:
            if self.legend_is_due:
                self._print(legend(self.strata))
                self.legend_is_due = False
            self._print(self._source(found))
        for printed in self.job.printed(found, self._target):
            self._print(printed)

    def _print(self, line: str) -> None:
        print(line, file=self.output, flush=True)

    def _source(self, found: Translation) -> str:
        visits = found.candidates[0].source_visits
        if visits is None:
            return found.source
        tag_and_end = slice(1, -1)
        return self._spelled(normalise(found.source), visits.pieces[tag_and_end], visits.means()[tag_and_end])

    def _target(self, candidate: Candidate) -> str:
        """The text; each piece in the colour of the step that read it."""
        visits = candidate.target_visits
        if not self.visits or visits is None:
            return candidate.text
        return self._spelled(candidate.text, visits.pieces[1:], visits.means()[1:])

    def _spelled(self, text: str, pieces: Sequence[str], means: Sequence[float]) -> str:
        """The coloured pieces; the plain text where they do not spell it, as bytes or unknown characters do not."""
        parts = [piece.replace(WORD_START, " ") for piece in pieces]
        if "".join(parts).strip() != text or not parts:
            return text
        parts[0] = parts[0].lstrip()
        return "".join(coloured(part, mean, self.strata) if part else "" for part, mean in zip(parts, means))


def strata_of_visits(translator: Translator) -> int:
    """The most visits that a token makes in a block; 0 where they are not known: without blocks, or of several models."""
    models = translator.models
    if len(models) > 1:
        return 0
    settings = models[0].config.model
    groups = groups_by_side(settings)
    strata = max((len(each) for side in groups.values() for each in side), default=0)
    return strata * SYSTEMS[str(settings["moe"])].sub_tokens(settings) if strata > 1 else strata


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
