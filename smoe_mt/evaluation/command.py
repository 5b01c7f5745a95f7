"""``smoe-mt evaluate``: scores of one run or several, side by side."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from smoe_mt.errors import UserError
from smoe_mt.evaluation.evaluate import Request, evaluate
from smoe_mt.evaluation.scores import BASELINES
from smoe_mt.evaluation.table import samples, scores_table
from smoe_mt.generation import Decoding, Translator
from smoe_mt.generation.checkpoint import find_checkpoint, results_folder, run_name_parts
from smoe_mt.generation.command import add_decoding_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folder (--save-dir) or checkpoint file")
    parser.add_argument("--data", help="data folder, where it is not where it was in training")
    parser.add_argument("--split", default="test", help="split to translate (default: %(default)s)")
    parser.add_argument("--directions", nargs="+", help="only these, such as nso-en,en-nso (default: all of the split)")
    parser.add_argument("--limit", type=int, help="only the first LIMIT sentences of each direction")
    parser.add_argument("--out", help="folder for the results (default: RUN/evaluation/SPLIT)")
    parser.add_argument("--samples", type=int, default=0, help="print so many translations of each run")
    parser.add_argument("--baseline", choices=list(BASELINES), default="copy", help="what the table compares with")
    add_decoding_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Evaluate every run, write its results, print the table. Raises UserError for what cannot be evaluated."""
    if args.limit is not None and args.limit < 1:
        raise UserError(f"--limit {args.limit}: it must be 1 or more")
    request = Request(
        split=args.split,
        directions=tuple(args.directions or ()),
        limit=args.limit,
        decoding=Decoding(args.beam, args.lenpen, args.max_len_a, args.max_len_b),
        max_tokens=args.max_tokens,
    )
    checkpoints = [find_checkpoint(path) for path in args.runs]
    evaluations = []
    for name, checkpoint in zip(run_names(checkpoints), checkpoints):
        translator = Translator.from_pretrained(checkpoint, args.data, args.device)
        evaluation = evaluate(translator, request, name)
        written = evaluation.write(_folder(args.out, checkpoint, args.split, name, several=len(checkpoints) > 1))
        print(f"{name}: {written}")
        evaluations.append(evaluation)
    print(f"\nsplit {args.split}, beam {args.beam}" + (f", first {args.limit} sentences" if args.limit else ""))
    print(scores_table(evaluations, args.baseline))
    for metric, signature in next(iter(evaluations[0].scores.values())).signatures.items():
        print(f"{metric}: {signature}")
    for evaluation in evaluations if args.samples > 0 else ():
        print("\n" + samples(evaluation, args.samples))


def run_names(checkpoints: Sequence[Path]) -> list[str]:
    """A short name for each: its run folder's, with as many parents as it takes to tell them apart.

    Raises UserError where the same checkpoint is named twice.
    """
    parts = [run_name_parts(checkpoint) for checkpoint in checkpoints]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(each[-length:]).lstrip("/") for each in parts]
        if len(set(names)) == len(names):
            return names
    raise UserError("the same run is named twice")


def _folder(out: str | None, checkpoint: Path, split: str, name: str, several: bool) -> Path:
    if out is not None:
        return Path(out) / name if several else Path(out)
    return results_folder(checkpoint, "evaluation") / split
