"""``smoe-mt plan``: what training would cost on many devices, from a config, before anybody pays for them."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, fields
from itertools import product
from typing import TYPE_CHECKING, Any

from smoe_mt.allowed import flags
from smoe_mt.analysis.cost_command import VOCABULARIES
from smoe_mt.analysis.hardware import DATA_SHEETS, SHARE_OF_FLOPS, SHARE_OF_LINKS, Hardware, hardware
from smoe_mt.errors import UserError
from smoe_mt.launch import compose, config_folder
from smoe_mt.text_table import aligned

if TYPE_CHECKING:
    from smoe_mt.analysis.scaling import Forecast

DEFAULT_CONFIG, DEFAULT_RANKS, DEFAULT_HARDWARE = "m15", (8, 16, 64, 256, 1024), "h100"
ASSUMED = f"""Links, memory and peak FLOP/s of a preset are its data sheet's; that training gets {SHARE_OF_FLOPS:.0%} of the FLOP/s and
{SHARE_OF_LINKS:.0%} of the rest is an assumption. Routing is taken to be uniform and nothing to be dropped. Formulas: docs/scaling.md."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = """examples:
  smoe-mt plan model=smoe_4_12 --ranks 8 64
  smoe-mt plan --config m15 model=smoe_4_12 common.bf16=true --ranks 64 --expert-parallel-size 1 8"""
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="such as model=smoe_4_12 dataset.max_tokens=8192 task.tokens_per_update=0 common.bf16=true",
    )
    parser.add_argument("--config", default=DEFAULT_CONFIG, help="name of a config (default: %(default)s)")
    parser.add_argument("--config-dir", help="a folder of your own configs (default: those of smoe_mt)")
    parser.add_argument(
        "--vocab-size", type=flags.vocabulary_size, help="dictionary entries (default: the benchmark's)"
    )
    parser.add_argument(
        "--ranks",
        nargs="+",
        type=flags.ranks,
        default=DEFAULT_RANKS,
        metavar="N",
        help="numbers of devices (one rank each); one row of the table for each N",
    )
    parser.add_argument(
        "--expert-parallel-size",
        nargs="+",
        type=flags.ranks,
        metavar="N",
        help="ranks that share the experts of a block; one row of the table for each N (default: the config's)",
    )
    parser.add_argument(
        "--length", type=flags.positive_int, default=32, help="tokens of a sentence (default: %(default)s)"
    )
    parser.add_argument(
        "--rows",
        type=flags.positive_float,
        help="rows that the experts of a block compute per token (default: expected visits x top_k)",
    )
    parser.add_argument(
        "--hardware",
        default=DEFAULT_HARDWARE,
        metavar="NAME|FILE",
        help=f"{', '.join(DATA_SHEETS)}, or a JSON file whose fields are named as the next options (default: %(default)s)",
    )
    for field in fields(Hardware):
        flag = "--" + field.name.replace("_", "-")
        number = flags.positive_int if field.type == "int" else flags.positive_float
        parser.add_argument(flag, type=number, metavar="X", help="replaces the value of --hardware")
    parser.add_argument("--format", choices=["table", "json"], default="table", help="(default: %(default)s)")


def run(args: argparse.Namespace) -> None:
    """Predict, print. Raises UserError for what cannot be trained."""
    config = compose(config_folder(args.config_dir), args.config, args.overrides)
    precision = precision_of(config)
    own = {f.name: getattr(args, f.name) for f in fields(Hardware) if getattr(args, f.name) is not None}
    on = hardware(args.hardware, precision != "fp32", own)
    rows = _forecasts(args, config, precision, on)
    if args.format == "json":
        head = {"config": args.config, "overrides": args.overrides, "precision": precision, "hardware": asdict(on)}
        print(json.dumps({**head, "rows": [row.as_json() for row in rows]}, indent=2))
        return
    print("\n".join([_about(config, precision, on), "", _table(rows), "", ASSUMED]))


def precision_of(config: Any) -> str:
    """As training would choose it."""
    common = config.common
    return next((name for name in ("bf16", "fp16", "amp") if getattr(common, name)), "fp32")


def _forecasts(args: argparse.Namespace, config: Any, precision: str, on: Hardware) -> list[Forecast]:
    from smoe_mt.analysis.scaling import Setup, facts, forecast, update_freq

    vocabulary = args.vocab_size or VOCABULARIES.get(args.config)
    if vocabulary is None:
        raise UserError(f"how many dictionary entries? --config {args.config} does not say; give --vocab-size")
    if not config.dataset.max_tokens:
        raise UserError("how many tokens a batch? Set dataset.max_tokens")
    model = facts(config.model, vocabulary, args.length, args.rows)
    task, found = config.task, []
    for ranks, shared_by in product(args.ranks, args.expert_parallel_size or [task.expert_parallel_size]):
        chunks = task.expert_parallel_chunks if shared_by > 1 else 1
        freq = update_freq(config, ranks)
        setup = Setup(ranks, shared_by, chunks, config.dataset.max_tokens, freq, precision, args.length)
        found.append(forecast(model, setup, on))
    return found


def _about(config: Any, precision: str, on: Hardware) -> str:
    return (
        f"{config.dataset.max_tokens:,} + {config.dataset.max_tokens:,} tokens a batch and rank, {precision}, "
        f"{config.task.expert_parallel_chunks} part(s) an exchange. A device: {on.flops_per_s / 1e12:.4g} TFLOP/s, "
        f"{on.memory_bytes / 1e9:.4g} GB; {on.devices_per_machine} a machine, "
        f"{on.within_bytes_per_s / 1e9:.4g} GB/s within, {on.between_bytes_per_s / 1e9:.4g} GB/s between them."
    )


HEAD = "ranks,share experts,tokens,held M,GB held,compute,Adam,GB all-to-all,of it between,s,GB all-reduce,s,s a step,tokens/s,efficiency,"


def _table(rows: list[Forecast]) -> str:
    lines = [HEAD.split(","), *([_cell(value) for value in _cells(row)] for row in rows)]
    return "\n".join(aligned(lines))


def _cells(row: Forecast) -> list[Any]:
    exchanged = row.exchange_bytes_within + row.exchange_bytes_between
    return [
        row.ranks,
        row.expert_parallel_size,
        row.tokens_per_update,
        (row.shared_parameters + row.expert_parameters) // 10**6,
        row.memory_bytes / 1e9,
        row.compute_s,
        row.adam_s,
        exchanged / 1e9,
        row.exchange_bytes_between / 1e9,
        row.exchange_s - row.hidden_s,
        row.reduce_bytes / 1e9,
        row.reduce_s,
        row.seconds,
        round(row.tokens_per_s),
        row.efficiency,
        f"does not fit: {row.does_not_fit}" if row.does_not_fit else "",
    ]


def _cell(value: Any) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
