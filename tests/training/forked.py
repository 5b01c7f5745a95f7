"""Ranks as forked processes of the tests' own: what takes seconds to import is there already."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.distributed import utils as distributed_utils
from fairseq.options import get_training_parser, parse_args_and_arch
from fairseq_cli import train
from torch import distributed

from smoe_mt import preemption
from smoe_mt.moe import SYSTEMS
from smoe_mt.moe.system import STRATA
from smoe_mt.paths import user_dir

PAUSE = 0.005  # seconds
MORE = {
    "pesc": " --pesc-dropout 0",
    "stratified_pesc": " --pesc-dropout 0",
    "eom": " --eom-p 0",
    "cmr": " --cmr-gate-dropout 0 --cmr-weight 1",
    "vanilla": " --balance-bias 0.05 --z-weight 0.1 --shared-experts 1",
    "xmoe": " --balance-bias 0.05",
}
KINDS = {"none": ""} | {
    name: ("--strata 2,2" if system.experts_setting == STRATA else "--num-experts 4") + MORE.get(name, "")
    for name, system in SYSTEMS.items()
}
MODEL = (
    "--arch smoe_transformer_tiny --moe-freq 1 --encoder-layers 1 --decoder-layers 1 --dropout 0 --attention-dropout 0"
)
MODEL += " --encoder-embed-dim 16 --decoder-embed-dim 16 --encoder-ffn-embed-dim 32 --decoder-ffn-embed-dim 32"
MODEL += " --max-source-positions 64 --max-target-positions 64"
TRAINING = (
    "--task many_to_many_translation --criterion stratified_routing --optimizer adam --lr-scheduler fixed --lr 0.005"
)
TRAINING += " --max-tokens 120 --cpu --num-workers 0 --no-progress-bar --no-epoch-checkpoints"


def config(data: Path, folder: Path, kind: str = "stratified", options: str = "") -> Any:
    """What fairseq-train would train with: a tiny model of a `--moe`, without dropout."""
    command = (
        f"{data} --user-dir {user_dir()} {TRAINING} {MODEL} --moe {kind} {KINDS[kind]} {options} --save-dir {folder}"
    )
    return convert_namespace_to_omegaconf(parse_args_and_arch(get_training_parser(), command.split()))


def start(cfg: Any) -> None:
    """Train, as fairseq-train does."""
    distributed_utils.call_main(cfg, train.main)


@dataclass(frozen=True)
class Ranks:
    """Processes that were started, in order of their ranks, and the files they write to."""

    processes: list[int]
    logs: list[Path]
    #: Where they find each other, which torchrun keeps in a process of its own.
    store: distributed.TCPStore

    def wait(self, seconds: float = 120) -> list[int]:
        """Their exit codes, negative for a signal. Those that take longer are killed, which fails the test."""
        codes: dict[int, int] = {}
        for _ in range(
            round(seconds / PAUSE)
        ):  # counted, not timed: a machine that sleeps meanwhile is nobody's failure
            for process in self.processes:
                ended, status = (0, 0) if process in codes else os.waitpid(process, os.WNOHANG)
                if ended:
                    codes[process] = os.waitstatus_to_exitcode(status)
            if len(codes) == len(self.processes):
                break
            time.sleep(PAUSE)
        late = [process for process in self.processes if process not in codes]
        for process in late:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
        assert not late, "\n".join(
            [f"{len(late)} ranks still run after {seconds} s", *map(self.log, range(len(self.logs)))]
        )
        return [codes[process] for process in self.processes]

    def first(self) -> Ranks:
        """The first of them alone."""
        return Ranks(self.processes[:1], self.logs[:1], self.store)

    def log(self, rank: int) -> str:
        """The end of what a rank wrote."""
        return self.logs[rank].read_text()[-3000:]

    def succeed(self, seconds: float = 120) -> None:
        """Wait, and expect no error."""
        codes = self.wait(seconds)
        assert not any(codes), "\n".join([str(codes), *map(self.log, range(len(self.logs)))])


def fork(ranks: int, run: Callable[[int], object], folder: Path) -> Ranks:
    """Call `run` with each rank, in processes that find in the environment what torchrun would put there."""
    folder.mkdir(parents=True, exist_ok=True)
    store = distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    logs = [folder / f"rank{rank}.log" for rank in range(ranks)]
    return Ranks([_fork(rank, ranks, store.port, run, log) for rank, log in enumerate(logs)], logs, store)


def _fork(rank: int, ranks: int, port: int, run: Callable[[int], object], log: Path) -> int:
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        torch.set_num_threads(1)
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
        os.dup2(1, 2)
        sys.stdout = sys.stderr = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115  # not pytest's
        logging.basicConfig(force=True, level=logging.INFO, format="%(name)s %(levelname)s %(message)s")
        preemption._noted.clear()
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(rank)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"
        run(rank)
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:  # noqa: BLE001  # as Python itself would
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
    finally:
        sys.stdout.flush()
        os._exit(code)
