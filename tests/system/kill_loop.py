"""Kills a training again and again, and compares its weights at the end with those of one that was left alone.

``python -m tests.system.kill_loop --kills 20``; some minutes, so it is no part of the suite. Every other kill aims at the
moment in which a checkpoint is copied to another of its names (``--sharded``: in which its tensors are written); the others come
at random. After each kill all checkpoints must
be whole. Each run is a forked process: what took long to import is there already.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from fairseq_cli import train

from smoe_mt.checkpoints.names import LAST
from smoe_mt.checkpoints.reading import check_whole, read_checkpoint
from smoe_mt.checkpoints.sharded import PARTS
from smoe_mt.paths import user_dir
from smoe_mt.registration import register
from smoe_mt.temporary_names import MARK, PARTIAL
from tests.toy import make_toy_folder

COPIES = (LAST, "checkpoint_best.pt")
SIZES = "--encoder-embed-dim 32 --decoder-embed-dim 32 --encoder-ffn-embed-dim 64 --decoder-ffn-embed-dim 64"
OPTIONS = f"--task many_to_many_translation --arch smoe_transformer_tiny {SIZES} --dropout 0.2 --cpu --num-workers 0"
OPTIONS += " --moe stratified --strata 2,2 --eom-p 0.2 --second-choice gumbel --criterion stratified_routing"
OPTIONS += (
    " --max-source-positions 64 --max-target-positions 64 --optimizer adam --lr 0.003 --lr-scheduler inverse_sqrt"
)
OPTIONS += " --warmup-updates 10 --max-tokens 100 --update-freq 2 --save-interval-updates 3 --keep-interval-updates 2"
OPTIONS += " --keep-last-epochs 2 --no-progress-bar --log-interval 1000"


def main() -> int:
    """Exit code 0 if nothing was lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--updates", type=int, default=60)
    parser.add_argument("--sharded", action="store_true", help="checkpoints with their tensors in a folder beside them")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        return kill_loop(Path(home), args.kills, args.updates, args.sharded, random.Random(args.seed))


def kill_loop(home: Path, kills: int, updates: int, sharded: bool, rng: random.Random) -> int:
    """As `main`."""
    register()  # fairseq does not load a user dir that is imported already
    data = make_toy_folder(home / "data", sizes={"train": 150, "valid": 12, "test": 9})
    command = ["fairseq-train", str(data), "--user-dir", str(user_dir()), *OPTIONS.split()]
    command += [*(["--sharded-checkpoints"] if sharded else []), "--max-update", str(updates), "--save-dir"]
    targets = [f"shards_*{PARTIAL}"] if sharded else [f".{name}.{MARK}-tmp-*" for name in COPIES]
    began = time.monotonic()
    if wait(start([*command, str(home / "alone")], home / "log")) != 0:
        sys.exit((home / "log").read_text()[-3000:])
    seconds = time.monotonic() - began
    print(f"uninterrupted: {updates} updates in {seconds:.1f} s", flush=True)
    done: Counter[str] = Counter()
    whole_runs, run = 0, home / "run"
    while done.total() < kills:
        aim = "writing" if done.total() % 2 else "random"
        now = aimed_at(run, targets, rng) if aim == "writing" else at_random(seconds, rng)
        died = killed([*command, str(run)], home, now)
        if died:
            done[aim] += 1
            print(f"kill {done.total()}: {aim}; left {look_at(run)}", flush=True)
        elif not equal(home / "alone", run):
            return 1
        else:
            whole_runs += 1
            shutil.rmtree(run)
    if killed([*command, str(run)], home, lambda: False) or not equal(home / "alone", run):
        return 1
    print(f"{dict(done)} kills over {whole_runs + 1} whole runs: all ended with the same weights", flush=True)
    return 0


def start(command: list[str], log: Path) -> int:
    """Train in a forked process; returns its id."""
    process = os.fork()
    if process:
        return process
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
    os.dup2(1, 2)
    sys.argv = command
    code = 1
    try:
        train.cli_main()
        code = 0
    finally:
        if code:
            traceback.print_exc()
        sys.stdout.flush()
        os._exit(code)


def wait(process: int) -> int:
    """The exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def killed(command: list[str], home: Path, now: Callable[[], bool]) -> bool:
    """Whether a run was killed, at the moment that `now` says, before it ended."""
    process = start(command, home / "log")
    while True:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended and status:
            sys.exit(f"the run failed by itself:\n{(home / 'log').read_text()[-3000:]}")
        if ended:
            return False
        if now():
            os.kill(process, signal.SIGKILL)
            return wait(process) == -signal.SIGKILL
        time.sleep(0.0001)


def at_random(seconds: float, rng: random.Random) -> Callable[[], bool]:
    """A moment of a run."""
    end = time.monotonic() + rng.uniform(0, seconds)
    return lambda: time.monotonic() > end


def aimed_at(run: Path, targets: Sequence[str], rng: random.Random) -> Callable[[], bool]:
    """The moment in which one of these is being written, of the first few one."""
    left = rng.randint(1, 4)
    seen = False

    def now() -> bool:
        nonlocal left, seen
        writing = any(next(run.glob(target), None) for target in targets)
        left -= writing and not seen
        seen = writing
        return left == 0

    return now


def look_at(run: Path) -> str:
    """What a killed run left; UserError for a checkpoint that is not whole."""
    checkpoints = sorted(run.glob("*.pt"))
    for path in checkpoints:
        check_whole(path)
    halves = [path.name for pattern in (f"*{PARTIAL}", f".*.{MARK}-tmp-*") for path in run.glob(pattern)]
    return f"{len(checkpoints)} whole checkpoints, half-written: {', '.join(halves) or 'none'}"


def equal(alone: Path, run: Path) -> bool:
    """Whether last and best checkpoints have the same weights, bit for bit, and the last the same optimiser state."""
    for name in COPIES:
        one, other = (read_checkpoint(folder / name, PARTS) for folder in (alone, run))
        parts = [(one["model"], other["model"])]
        for number, state in one["last_optimizer_state"]["state"].items():
            parts.append((state, other["last_optimizer_state"]["state"][number]))
        for left, right in parts:
            for key, value in left.items():
                if not torch.equal(torch.as_tensor(value), torch.as_tensor(right[key])):
                    print(f"{name}: {key} differs from the uninterrupted run's", flush=True)
                    return False
    return True


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
