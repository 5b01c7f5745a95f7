"""``smoe-mt flops``: what a model costs, by its config or measured on a split, next to the paper's tables."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from smoe_mt.allowed import flags
from smoe_mt.errors import UserError
from smoe_mt.files import write_text
from smoe_mt.launch import compose, config_folder
from smoe_mt.paper.costs import COSTS, Published
from smoe_mt.paths import configs
from smoe_mt.text_table import aligned

if TYPE_CHECKING:
    from smoe_mt.tasks.dataset import DirectionText

DEFAULT_CONFIG = "m4"
# The paper says 32k pieces. Its printed parameters fit a dictionary of 31,400 entries: all rows within 0.5%.
PAPER_VOCABULARY = 31_400
VOCABULARIES = {"m4": 32_000, "m15": 32_000, "opus100": 64_000}
FORMULA = """FLOPs/token: a forward pass of one token through encoder and decoder, 2 for each weight it is multiplied with:
attention's projections 2 x 4 d^2 a module, FFNs 2 x 2 d F, output 2 V d, attention itself 4 n d a module (context n).
A visit to a top-k set of experts costs k FFNs; a stratified block has V(i) = 1 + sum over later gates P(i -> g) V(g)
visits, P uniform over the visible experts. Norms, biases, softmax, gates and embedding look-up are left out."""
NOT_EXPLAINED = """n is fitted to both dense rows of the paper, which does not say how it counts. With 32,000 entries instead of 31,400
each row of M4 has 0.3M and each of M15 0.6M parameters more. Two differences are not the paper's: Stacking 4 x 2
(M4; 16M) and SMoE-8-4-4 (M15; 3M)."""


@dataclass(frozen=True)
class Row:
    """A model's name, its cost, what the paper says of it."""

    name: str
    cost: Any
    published: Published | None = None
    measured: Any = None
    by_direction: Mapping[str, int] | None = None

    def as_json(self) -> dict[str, Any]:
        """In units of one."""
        cost = {
            "row": self.name,
            "parameters": self.cost.total_parameters,
            "trained_parameters": self.cost.trained_parameters,
            "flops_per_token": self.cost.flops_per_token,
        }
        if self.published is not None:
            cost |= {
                "paper_parameters": self.published.parameters,
                "paper_flops_per_token": self.published.flops_per_token,
            }
        if self.measured is not None:
            cost |= {
                "measured_flops_per_token": self.measured.flops_per_token,
                "measured_by_direction": dict(self.by_direction or {}),
            }
        terms = {"parameters": self.cost.parameters, "flops_per_token": self.cost.flops}
        return cost | {"terms": {kind: {term.name: term.amount for term in sums} for kind, sums in terms.items()}}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = """examples:
  smoe-mt flops --benchmark m15
  smoe-mt flops --config m15 model=smoe_4_12
  smoe-mt flops runs/nordic --split valid"""
    parser.add_argument(
        "what", nargs="*", metavar="RUN|KEY=VALUE", help="trained runs to measure, or overrides such as model=smoe_4_12"
    )
    parser.add_argument(
        "--benchmark", choices=list(COSTS), help="all rows of the paper's table, next to the paper's numbers"
    )
    parser.add_argument("--config", default=DEFAULT_CONFIG, help="name of a config (default: %(default)s)")
    parser.add_argument("--config-dir", help="a folder of your own configs (default: those of smoe_mt)")
    parser.add_argument(
        "--vocab-size", type=flags.vocabulary_size, help="dictionary entries (default: the benchmark's)"
    )
    parser.add_argument(
        "--context",
        type=flags.positive_int,
        help="tokens that a query attends to (default: fitted to the paper's FLOPs; for a RUN, as many as in the split)",
    )
    parser.add_argument("--data", type=flags.path, help="for a RUN: its data folder, if it has moved since training")
    parser.add_argument("--split", default="test", help="for a RUN: split to measure on (default: %(default)s)")
    parser.add_argument(
        "--limit", type=flags.positive_int, help="for a RUN: only the first LIMIT sentences of each direction"
    )
    parser.add_argument(
        "--device", type=flags.device, default="auto", help="for a RUN: auto, cpu or cuda (default: %(default)s)"
    )
    parser.add_argument("--format", choices=["table", "json"], default="table", help="(default: %(default)s)")
    parser.add_argument("--out", type=flags.path, metavar="FILE", help="write what is printed into FILE instead")


def run(args: argparse.Namespace) -> None:
    """Count, measure where a run is given, print. Raises UserError for what cannot be counted."""
    _check(args)
    runs = [each for each in args.what if "=" not in each]
    overrides = [each for each in args.what if "=" in each]
    if args.benchmark:
        rows = benchmark_rows(args.benchmark, args.vocab_size or PAPER_VOCABULARY, _context(args), overrides)
    elif runs:
        rows = [measured_row(each, args) for each in runs]
    else:
        rows = [config_row(args, overrides)]
    text = json.dumps([row.as_json() for row in rows], indent=2) if args.format == "json" else as_text(rows)
    if args.out:
        write_text(args.out, f"{text}\n")
    else:
        print(text)


def _check(args: argparse.Namespace) -> None:
    if args.benchmark and any("=" not in each for each in args.what):
        raise UserError("--benchmark counts the rows of a table; measure a RUN without it")


def _context(args: argparse.Namespace) -> int:
    from smoe_mt.analysis.cost import FITTED_CONTEXT

    return args.context or FITTED_CONTEXT


def benchmark_rows(benchmark: str, vocabulary: int, context: int, overrides: Sequence[str] = ()) -> list[Row]:
    """All rows of a table of the paper."""
    from smoe_mt.analysis.cost import cost_of

    rows = []
    for name, published in COSTS[benchmark].items():
        config = compose(configs(), benchmark, [*overrides, f"model={name}"])
        rows.append(Row(name, cost_of(config.model, vocabulary, context), published))
    return rows


def config_row(args: argparse.Namespace, overrides: Sequence[str]) -> Row:
    """The model of a config."""
    from smoe_mt.analysis.cost import cost_of

    config = compose(config_folder(args.config_dir), args.config, overrides)
    name = str(config.hydra.runtime.choices.get("model", args.config))
    vocabulary = args.vocab_size or VOCABULARIES.get(args.config)
    if vocabulary is None:
        raise UserError(f"how many dictionary entries? --config {args.config} does not say; give --vocab-size")
    return Row(name, cost_of(config.model, vocabulary, _context(args)))


def measured_row(run_folder: str, args: argparse.Namespace) -> Row:
    """A trained model: its cost under uniform routing, and with the visits that its gates decide on a split."""
    from smoe_mt.analysis.capacity import Request, requested_capacity
    from smoe_mt.analysis.cost import cost_of_model
    from smoe_mt.analysis.forced import direction_texts
    from smoe_mt.generation.checkpoint import load_model
    from smoe_mt.moe.names import SIDES

    loaded = load_model(run_folder, args.data, args.device)
    model, vocabulary = loaded.model, len(loaded.task.dictionary)
    context = args.context or context_of(direction_texts(loaded.task, args.split, loaded.task.directions), args.limit)
    uniform = cost_of_model(model, vocabulary, context)
    if model.system is None or not model.system.rows_vary:  # every token passes as many experts: nothing to measure
        return Row(run_folder, uniform, None, uniform, {})
    report = requested_capacity(loaded, Request(split=args.split, limit=args.limit), run_folder)

    def cost_in(direction: str | None) -> Any:
        units = {side: [report.units.mean(block, direction) for block in report.visits.side(side)] for side in SIDES}
        return cost_of_model(model, vocabulary, context, units)

    by_direction = {direction: cost_in(direction).flops_per_token for direction in report.directions}
    return Row(run_folder, uniform, None, cost_in(None), by_direction)


def context_of(texts: Sequence[DirectionText], limit: int | None = None) -> int:
    """Tokens that a token attends to, mean over the tokens of both sides, tag and </s> included."""
    from smoe_mt.evaluation.measured import mean_context

    sizes = (side for text in texts for side in (text.source.sizes[:limit] + 1, text.target.sizes[:limit]))
    return mean_context(int(size) for side in sizes for size in side)


def as_text(rows: Sequence[Row]) -> str:
    """A table next to the paper's numbers if it has them, else the terms of each model."""
    if rows[0].published is not None:
        return "\n".join([_comparison(rows), "", FORMULA, NOT_EXPLAINED])
    return "\n\n".join([*(_terms(row) for row in rows), FORMULA])


def _comparison(rows: Sequence[Row]) -> str:
    first = rows[0]
    head = ("row", "parameters", "paper", "off", "FLOPs/token", "paper", "off", "less dense", "paper", "differ")
    table = [head]
    for row in rows:
        assert row.published is not None and first.published is not None
        parameters, flops = row.cost.total_parameters, row.cost.flops_per_token
        ours = flops - first.cost.flops_per_token
        theirs = row.published.flops_per_token - first.published.flops_per_token
        table.append(
            (
                row.name,
                _millions(parameters),
                _millions(row.published.parameters, 0),
                f"{parameters / row.published.parameters - 1:+.2%}",
                _millions(flops),
                _millions(row.published.flops_per_token, 0),
                f"{flops / row.published.flops_per_token - 1:+.2%}",
                _millions(ours),
                _millions(theirs, 0),
                f"{(ours - theirs) / 1e6:+.1f}M",
            )
        )
    return "\n".join(aligned(table))


def _terms(row: Row) -> str:
    lines = [(f"{row.name}: parameters", "", _millions(row.cost.total_parameters, 2))]
    lines += [(f"  {term.name}", term.formula, _millions(term.amount, 2)) for term in row.cost.parameters]
    if row.cost.trained_parameters < row.cost.total_parameters:
        share = f"{row.cost.trained_parameters / row.cost.total_parameters:.1%} of them"
        lines.append(("  trained", share, _millions(row.cost.trained_parameters, 2)))
    lines += [("FLOPs/token", "", _millions(row.cost.flops_per_token, 2))]
    lines += [(f"  {term.name}", term.formula, _millions(term.amount, 2)) for term in row.cost.flops]
    if row.measured is not None:
        lines.append(("measured FLOPs/token", "as routed", _millions(row.measured.flops_per_token, 2)))
        found = [term for term in row.measured.flops if "MoE" in term.name]
        lines += [(f"  {term.name}", term.formula, _millions(term.amount, 2)) for term in found]
        lines += [(f"  {name}", "", _millions(flops, 2)) for name, flops in (row.by_direction or {}).items()]
    return "\n".join(aligned(lines, left=(0, 1)))


def _millions(amount: float, decimals: int = 1) -> str:
    return f"{amount / 1e6:,.{decimals}f}M"
