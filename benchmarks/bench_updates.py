"""Updates a second of `smoe-mt train`, logging and loading of batches included, of models so small that the host is what a GPU waits for.

    python -m benchmarks.bench_updates --dtype bf16 --optimizer fused_adam --json updates.json

Each model trains for some seconds, or for some updates, on random sentences of real lengths. The rate is the median over the log
intervals after the first one, in which kernels are compiled; shapes are captured in the first few. With --at-once several processes
train the same model side by side.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import measuring
from benchmarks.synthetic_folder import make_folder
from smoe_mt.report.curves import parse_log

VOCABULARY = 4_000
NARROW = [f"model.{side}_{size}" for side in ("encoder", "decoder") for size in ("embed_dim=64", "ffn_embed_dim=256")]
MODELS = {
    "quickstart dense": ["model=dense", "dataset.max_tokens=1024"],
    "quickstart dense, 8192 tokens": ["model=dense", "dataset.max_tokens=8192"],
    "d 64 smoe_2_2_2_2": ["model=smoe_2_2_2_2", "dataset.max_tokens=2048", "model.moe_freq=1", *NARROW],
}
# Batches as ever; padded to few shapes; these captured as CUDA graphs.
SHAPES = ["task.batch_shapes=16"]
WAYS = {"plain": [], "shapes": SHAPES, "graphs": [*SHAPES, "task.cuda_graphs=on"]}
FELL_BACK = "training goes on without graphs"
NO_END = 1_000_000  # updates
# Nothing but training.
TRAINING = [
    "common.log_format=simple",
    "common.tensorboard_logdir=null",
    "checkpoint.no_save=true",
    "dataset.disable_validation=true",
]


def command(model: str, way: str, data: Path, folder: Path, args: argparse.Namespace) -> list[str]:
    """A training of ``args.updates``, or else of ``args.seconds``."""
    own = [f"task.data={data}", f"checkpoint.save_dir={folder}", f"common.log_interval={args.log_interval}"]
    own += [f"optimization.max_update={args.updates or NO_END}"]
    own += [] if args.updates else [f"optimization.stop_time_hours={args.seconds / 3600}"]
    own += [f"optimizer._name={args.optimizer}", f"common.cpu={str(args.device == 'cpu').lower()}"]
    precision = [f"common.{args.dtype}=true"] if args.dtype != "fp32" else []
    batches = SHAPES if args.device == "cpu" and way == "graphs" else WAYS[way]
    return [sys.executable, "-m", "smoe_mt.cli", "train", *MODELS[model], *batches, *TRAINING, *own, *precision]


def fell_back(folder: Path) -> bool:
    """Whether a training that was to use graphs did without."""
    return FELL_BACK in (folder / "hydra_train.log").read_text(encoding="utf-8")


def rates(folder: Path) -> list[float]:
    """Updates a second in each log interval but the first."""
    lines = (folder / "hydra_train.log").read_text(encoding="utf-8").splitlines()
    return [rate for _, rate in parse_log(lines)["train_inner"].get("ups", [])][1:]


def measure(model: str, way: str, data: Path, args: argparse.Namespace) -> dict[str, Any]:
    """A row: the rate of each process is in the sum."""
    with tempfile.TemporaryDirectory() as folder:
        folders = [Path(folder) / str(number) for number in range(args.at_once)]
        runs = [
            subprocess.Popen(command(model, way, data, one, args), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            for one in folders
        ]
        for run in runs:
            _, errors = run.communicate()
            if run.returncode:
                sys.exit(f"{model}: {errors.decode(errors='replace')[-2000:]}")
        found = [rates(one) for one in folders]
        without = any(fell_back(one) for one in folders) or args.device == "cpu"
    if not all(found):
        sys.exit(f"{model}, {way}: the training ended before its second log interval; give it more --seconds")
    medians = [statistics.median(one) for one in found]
    return {
        "model": model,
        "batches": "shapes" if way == "graphs" and without else way,
        "optimizer": args.optimizer,
        "processes": args.at_once,
        "intervals": sum(map(len, found)),
        "updates/s": statistics.mean(medians),
        "together": sum(medians),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["quickstart dense", "d 64 smoe_2_2_2_2"], choices=MODELS)
    parser.add_argument(
        "--ways", nargs="+", default=["plain"], choices=WAYS, help="how batches are padded and computed"
    )
    parser.add_argument("--optimizer", default="adam", help="optimizer._name")
    parser.add_argument("--seconds", type=float, default=14, help="of each training, the compiling of kernels included")
    parser.add_argument("--updates", type=int, help="of each training, however long they take, in place of --seconds")
    parser.add_argument("--log-interval", type=int, default=20, help="updates in each interval that is timed")
    parser.add_argument("--at-once", type=int, default=1, help="processes that train side by side")
    measuring.add_common_arguments(parser, runs=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        make_folder(data, pairs=4, total=40_000, full=True, vocabulary=VOCABULARY)
        measuring.show([measure(model, way, data, args) for model in args.models for way in args.ways], args)


if __name__ == "__main__":
    main()
