"""Real starts: torchrun with fairseq-hydra-train and a rank that dies once, and the SLURM script with a cluster of scripts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from smoe_mt.paths import configs, scripts, user_dir
from tests.toy import make_toy_folder

pytestmark = [pytest.mark.slow, pytest.mark.ranks]

TINY = [f"model.{side}_{what}" for side in ("encoder", "decoder") for what in ("embed_dim=16", "ffn_embed_dim=32")]
SETTINGS = [*TINY, "model.cpu_bf16=off", "dataset.max_tokens=120", "common.cpu=true", "dataset.disable_validation=true"]
# fairseq-hydra-train, in which rank 1 kills itself when it has made its third update, unless torchrun has started it again.
DIES_ONCE = """
import os, signal
from fairseq.trainer import Trainer
from fairseq_cli.hydra_train import cli_main
made = Trainer.set_num_updates
def set_num_updates(self, number):
    made(self, number)
    if number == 3 and os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        os.kill(os.getpid(), signal.SIGKILL)
Trainer.set_num_updates = set_num_updates
cli_main()
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_toy_folder(tmp_path_factory.mktemp("torchrun") / "data", sizes={"train": 46, "valid": 9, "test": 9})


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


def updates(folder: Path) -> int:
    return torch.load(folder / "checkpoint_last.pt", weights_only=True)["optimizer_history"][-1]["num_updates"]


def test_a_run_of_which_a_rank_dies_is_started_again_and_goes_on(data: Path, tmp_path: Path) -> None:
    (tmp_path / "dies_once.py").write_text(DIES_ONCE)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "1"]
    command += ["--standalone", str(tmp_path / "dies_once.py"), "--config-dir", str(configs()), "--config-name"]
    command += [
        "quickstart",
        f"common.user_dir={user_dir()}",
        *SETTINGS,
        f"task.data={data}",
        "optimization.max_update=4",
    ]
    command += ["checkpoint.save_interval_updates=2", f"checkpoint.save_dir={tmp_path}/run", "common.log_interval=1"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment(), timeout=240)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-3000:]
    assert said.count("2 ranks (gloo)") == 2, said[-3000:]
    assert "Loaded checkpoint" in said and "@ 2 updates" in said
    assert updates(tmp_path / "run") == 4


FAKES = {  # one node, whose step is a process of this machine
    "scontrol": '[ "$1" = show ] && echo localhost || echo "$@" >> "$FAKE_LOG"',
    "srun": 'exec "$@"',
    "torchrun": f'exec {sys.executable} -m torch.distributed.run "$@"',
}


def test_a_slurm_job_that_is_preempted_saves_and_queues_itself_again(data: Path, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    for name, body in FAKES.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    variables = {
        "SLURM_JOB_NODELIST": "node[1]",
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_JOB_ID": "7",
        "RANKS_PER_NODE": "2",
    }
    variables |= {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "FAKE_LOG": str(tmp_path / "log"),
        "RENDEZVOUS_PORT": "0",
    }
    command = ["bash", str(scripts() / "slurm.sh"), *SETTINGS, f"task.data={data}", "optimization.max_update=100000"]
    command += ["checkpoint.save_interval_updates=20", f"checkpoint.save_dir={tmp_path}/run"]
    with (tmp_path / "out").open("w") as out:
        job = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, env=environment(**variables), start_new_session=True
        )
        try:
            while not (tmp_path / "run" / "checkpoint_last.pt").exists() and job.poll() is None:
                time.sleep(0.05)
            job.send_signal(signal.SIGUSR1)
            code = job.wait(timeout=120)
        finally:
            if job.poll() is None:
                os.killpg(job.pid, signal.SIGKILL)
    assert code == 75, (tmp_path / "out").read_text()[-3000:]
    assert (tmp_path / "log").read_text() == "requeue 7\n"
    said = (tmp_path / "out").read_text()
    assert "SIGTERM asks to leave: saving after" in said
    assert f"saving after {updates(tmp_path / 'run'):,} updates" in said
