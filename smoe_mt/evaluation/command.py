"""``smoe-mt evaluate``: scores of one or several runs in one table, and tests of which run is better."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from smoe_mt.bleu_tokenizers import check_tokenizer
from smoe_mt.checkpoints.locate import find_checkpoint, results_folder, run_name_parts
from smoe_mt.errors import UserError
from smoe_mt.evaluation.arguments import DEFAULT_SPLIT
from smoe_mt.evaluation.comparison_table import comparison_report
from smoe_mt.evaluation.evaluate import Request, evaluate, read_texts
from smoe_mt.evaluation.files import SCORES, Results, check_writable, write_comparison
from smoe_mt.evaluation.identity import made_from
from smoe_mt.evaluation.metrics import Corpus
from smoe_mt.evaluation.parallel_files import ParallelFiles
from smoe_mt.evaluation.ranks import Ranks, open_ranks
from smoe_mt.evaluation.result import Evaluation
from smoe_mt.evaluation.selection import choose_metrics
from smoe_mt.evaluation.significance import LEVEL, check_same_text, comparable, compare
from smoe_mt.evaluation.standing import checkpoints_table, remarks
from smoe_mt.evaluation.table import samples, scores_table
from smoe_mt.generation import Translator
from smoe_mt.generation.arguments import routing_of
from smoe_mt.generation.checkpoint import load_model
from smoe_mt.generation.job import decoding_of
from smoe_mt.generation.routing import check_routing
from smoe_mt.language_codes import direction_name
from smoe_mt.memory import keep_freed_memory
from smoe_mt.scores_file import ROUTING, partial, unusual

MOST_SIGNATURES = 4  # of one metric, in print


SAYS_LITTLE = re.compile(
    r"seed\d+|checkpoint_\w+"
)  # parts of a name that are left out where they are those of all runs


def run(args: argparse.Namespace) -> None:
    """Evaluate every run, write its results, print the table. Raises UserError for what cannot be evaluated.

    Under torchrun all processes translate, and the first does the rest.
    """
    request, left_out = read_request(args)
    checkpoints = [find_checkpoint(path) for path in args.runs]
    names = run_names(checkpoints)
    groups: list[tuple[Path, ...]] = [(checkpoint,) for checkpoint in checkpoints]
    if args.ensemble:
        groups, names = [tuple(checkpoints)], ["+".join(names)]
    folders = [_folder(args.out, each, request.result, name, len(names) > 1) for each, name in zip(groups, names)]
    for folder in folders:
        check_writable(folder)
    keep_freed_memory()
    with open_ranks() as ranks:
        _check_routing_of_all(args, request, groups, ranks)
        evaluations = _evaluate_all(args, request, groups, names, folders, ranks)
    if not ranks.first:
        return
    _print_scores(args, request, evaluations, left_out)
    if args.compare:
        _compare(args, request, evaluations, Path(args.out) if args.out else folders[0])


def read_request(args: argparse.Namespace) -> tuple[Request, dict[str, str]]:
    """What the arguments ask for, and the metrics that cannot be computed with the reason.

    Raises UserError for arguments that are wrong or do not go together.
    """
    metrics, left_out = choose_metrics(args.metrics)
    check_tokenizer(args.tokenize)
    if args.ensemble and len(args.runs) < 2:
        raise UserError("--ensemble needs two runs or more, which translate together")
    if args.compare:
        if args.ensemble:
            raise UserError(
                "--ensemble makes one column of all runs, and --compare needs several: leave out one of them"
            )
        comparable(metrics)
        if len(args.runs) < 2:
            raise UserError("--compare needs two runs or more: the first is what the others are compared with")
    request = Request(
        split=args.split or DEFAULT_SPLIT,
        directions=tuple(args.directions or ()),
        limit=args.limit,
        decoding=decoding_of(args),
        max_tokens=args.max_tokens,
        # Ranks that share experts take every step together: none of them can send others in its place.
        processes=args.processes if args.expert_parallel_size == 1 else 1,
        parallel_files=_parallel_files(args),
        metrics=metrics,
        tokenize=args.tokenize,
        routing=routing_of(args),
    )
    return request, left_out


def _parallel_files(args: argparse.Namespace) -> ParallelFiles | None:
    given = {"--source": args.source, "--reference": args.reference, "--direction": args.direction}
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == len(given):
        return None
    if missing:
        hint = "; to choose directions of a split, use --directions" if args.source is None else ""
        raise UserError(f"{', '.join(given)} belong together: {' and '.join(missing)} missing{hint}")
    if args.split is not None or args.directions:
        raise UserError("--source takes the place of a split: leave out --split and --directions")
    parallel_files = ParallelFiles(Path(args.source), Path(args.reference), direction_name(args.direction))
    _ = parallel_files.lines  # errors in the files are found before a model is loaded
    return parallel_files


def _check_routing_of_all(
    args: argparse.Namespace, request: Request, groups: Sequence[tuple[Path, ...]], ranks: Ranks
) -> None:
    """UserError for a run that cannot route as is asked for, before the runs in front of it are translated with."""
    rank = None if request.decoding.contrast is None else request.decoding.contrast_rank
    if len(groups) < 2 or (rank is None and request.routing.changes_nothing):
        return
    for checkpoints in groups:
        for one in checkpoints:
            loaded = load_model(
                one, args.data, ranks.device(args.device), "fp32", args.expert_parallel_size, args.verify
            )
            check_routing(loaded, request.routing, rank)


def _evaluate_all(
    args: argparse.Namespace,
    request: Request,
    groups: Sequence[tuple[Path, ...]],
    names: Sequence[str],
    folders: Sequence[Path],
    ranks: Ranks,
) -> list[Evaluation]:
    """The evaluation of each group of checkpoints that translate together, on the first rank."""
    evaluations = []
    first_texts: list[Corpus] | None = None
    for checkpoints, name, folder in zip(groups, names, folders):
        device = ranks.device(args.device)
        translator = Translator.from_pretrained(
            checkpoints,
            args.data,
            device,
            expert_parallel_size=args.expert_parallel_size,
            verify=args.verify,
            routing=request.routing,
        )
        for line in translator.calibrations if ranks.first else ():
            print(f"{name}: {line}")
        texts = read_texts(translator, request)
        first_texts = first_texts or texts
        if args.compare:
            check_same_text(first_texts, texts, (names[0], name))
        beside = results_folder(checkpoints[0], "evaluation", of_all=True)
        results = Results(folder, made_from(translator, request.decoding, ranks), args.again, beside)
        evaluation = evaluate(translator, texts, request, name, results, ranks)
        if evaluation is not None:
            evaluations.append(evaluation)
            print(f"{name}: {folder}{_reused(evaluation.details)}")
        del translator  # before the next one is loaded
    return evaluations


def _compare(args: argparse.Namespace, request: Request, evaluations: Sequence[Evaluation], folder: Path) -> None:
    """Test all against the first, print and write what was found."""
    comparisons = compare(evaluations, args.resamples)
    baseline, contents = evaluations[0].name, {each.name: each.as_json() for each in evaluations}
    updates = {name: one["updates"] for name, one in contents.items()}
    print("\n" + comparison_report(comparisons, baseline, args.resamples, updates, remarks(contents)))
    content: dict[str, Any] = {"baseline": baseline, "level": LEVEL, "resamples": args.resamples}
    content |= {"text": request.title, "partial": partial(contents[baseline]), "remarks": remarks(contents)}
    content["checkpoints"] = {name: one["checkpoint"] for name, one in contents.items()}
    content |= {"updates": updates, "training": {name: one["training"] for name, one in contents.items()}}
    content["tests"] = [one.as_json() for one in comparisons]
    print(f"written to {write_comparison(folder, content)}")


def _reused(details: dict[str, Any]) -> str:
    reused = details["reused"]
    return f" ({len(reused)} directions were translated already; --again translates anew)" if reused else ""


def _print_scores(
    args: argparse.Namespace, request: Request, evaluations: Sequence[Evaluation], left_out: dict[str, str]
) -> None:
    text = request.parallel_files.source if request.parallel_files else f"split {request.split}"
    contents = {each.name: each.as_json() for each in evaluations}
    print("\n" + "\n".join(checkpoints_table(contents)))
    what = partial(contents[evaluations[0].name])
    routing = unusual(contents[evaluations[0].name], ROUTING)
    marks = [f"beam {args.beam}", *([routing] if routing else []), *([f"PARTIAL: {what}"] if what else [])]
    print(f"\n{text}, {', '.join(marks)}")
    print(scores_table(evaluations, args.baseline))
    for line in remarks(contents) if not args.compare else ():  # --compare says them where they matter most
        print(line)
    for line in signatures(evaluations):
        print(line)
    for name, reason in left_out.items():
        print(f"without {name}: {reason}")
    for evaluation in evaluations if args.samples > 0 else ():
        print("\n" + samples(evaluation, args.samples))


def signatures(evaluations: Sequence[Evaluation]) -> list[str]:
    """How each metric was computed: one line where it was the same everywhere, else one for each direction or run; and the
    directions that it has no value for.
    """
    lines = []
    for metric in evaluations[0].metrics:
        found: dict[str, list[str]] = {}
        for evaluation in evaluations:
            for direction, scores in evaluation.scores.items():
                if metric.name in scores.signatures:
                    found.setdefault(scores.signatures[metric.name], []).append(direction)
        for signature, directions in list(found.items())[:MOST_SIGNATURES]:
            where = f" ({', '.join(dict.fromkeys(directions))})" if len(found) > 1 else ""
            lines.append(f"{metric.name}: {signature}{where}")
        if len(found) > MOST_SIGNATURES:
            lines.append(f"{metric.name}: {len(found) - MOST_SIGNATURES} more signatures in {SCORES}")
        if metric.pool and len(found) > 1:
            lines.append(
                f"{metric.name}: its means are over scores of different signatures; compare them only with the same"
            )
        scored = {direction: one.values[metric.name] for each in evaluations for direction, one in each.scores.items()}
        without = [direction for direction, value in scored.items() if value is None]
        if without:
            lines.append(f"{metric.name}: no value for {', '.join(without)} (unknown language)")
    return lines


def run_names(checkpoints: Sequence[Path]) -> list[str]:
    """A short name for each: its run folder's, with as many parents as it takes to tell them apart, without a seed or a
    checkpoint that all have.

    Raises UserError where the same checkpoint is named twice.
    """
    parts = [run_name_parts(checkpoint) for checkpoint in checkpoints]
    for length in range(1, max(map(len, parts)) + 1):
        ends = [each[-length:] for each in parts]
        if len(set(ends)) == len(ends):
            while len({end[-1] for end in ends}) == 1 < len(ends) and SAYS_LITTLE.fullmatch(ends[0][-1]):
                ends = [end[:-1] for end in ends]
            return ["/".join(end).lstrip("/") for end in ends]
    raise UserError("the same run is named twice")


def _folder(out: str | None, checkpoints: Sequence[Path], title: str, name: str, several: bool) -> Path:
    """Where the results of checkpoints that translate together go; those of an ensemble beside the first one's own."""
    if out is not None:
        return Path(out) / name if several else Path(out)
    folder = results_folder(checkpoints[0], "evaluation")
    return folder / title if len(checkpoints) == 1 else folder / "ensemble" / name.replace("/", "_") / title
