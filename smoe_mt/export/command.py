"""``smoe-mt export``: a run becomes a folder that translates anywhere, without the training data."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from smoe_mt.checkpoints.exported import own_files
from smoe_mt.devices import INT8
from smoe_mt.errors import UserError
from smoe_mt.export import ctranslate2, huggingface, native, push
from smoe_mt.export.arguments import CTRANSLATE2, HUGGINGFACE, OWN
from smoe_mt.export.folder import Format, export
from smoe_mt.folders import restore
from smoe_mt.generation.checkpoint import load_model

FORMATS: dict[str, Format] = {OWN: native.FORMAT, HUGGINGFACE: huggingface.FORMAT, CTRANSLATE2: ctranslate2.FORMAT}


def run(args: argparse.Namespace) -> None:
    """Export, and say where and how large. Raises UserError for what cannot be loaded, written or uploaded."""
    out = Path(args.out)
    if args.dtype == INT8 and args.format != CTRANSLATE2:
        raise UserError(f"--dtype {INT8} goes with --format {CTRANSLATE2} alone: choose fp32, bf16 or fp16")
    if args.push is not None:
        push.check(args.push)
    check_place(out, args.overwrite)
    loaded = load_model(args.run, args.data, "cpu", verify=args.verify)
    export(loaded, out, args.name or out.absolute().name, args.licence, args.dtype, FORMATS[args.format])
    names = own_files(out)
    size = sum((out / name).stat().st_size for name in names)
    print(f"{out}: {size / 1e6:,.1f} MB, {', '.join(names)}")
    if args.push is not None:
        print(push.upload(out, args.push, names))


def check_place(out: Path, overwrite: bool) -> None:
    """UserError unless `out` is free, or an earlier export that may be replaced. An export that was killed is finished first."""
    restore(out, own_files)
    if not os.path.lexists(out) or (out.is_dir() and not any(out.iterdir())):
        return
    if not out.is_dir() or not own_files(out):
        raise UserError(f"{out} is there already and is no exported model; give another folder")
    if not overwrite:
        raise UserError(f"{out} holds an exported model already; give another folder, or --overwrite to replace it")
