"""A system in one file outside of the package goes the whole way: training, scores, figures, cost, checkpoints, export."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from smoe_mt.moe.registry import VARIABLE
from tests.conftest import TrainedRun, train
from tests.toy import make_toy_folder

FILE = Path(__file__).with_name("outside_system.py")
REPOSITORY = FILE.parents[2]
ALL_AT_ONCE = """
import contextlib, io, json, sys
from smoe_mt import cli
found = []
for arguments in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        code = cli.main(arguments)
    found.append([code, out.getvalue()])
print("\\n" + json.dumps(found))
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    home = tmp_path_factory.mktemp("outside")
    data = make_toy_folder(home / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, str(FILE))
        options = ("--moe", "cosine", "--num-experts", "4,3", "--cosine-scale", "6", "--alike-weight", "0.2")
        intervals = ("--save-interval-updates", "10", "--validate-interval-updates", "10", "--log-interval", "5")
        train(data, home / "run", *options, *intervals, "--log-file", str(home / "log"), updates=30)
    return TrainedRun(home / "run", data)


def commands(*lines: list[str]) -> list[str]:
    """Each a command line of smoe-mt, all in one process that knows the system; what they print."""
    environment = {**os.environ, VARIABLE: str(FILE), "OMP_NUM_THREADS": "1"}
    process = [sys.executable, "-c", ALL_AT_ONCE, json.dumps(lines)]
    done = subprocess.run(process, check=False, capture_output=True, text=True, env=environment, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert [code for code, _ in found] == [0] * len(lines), done.stderr[-3000:]
    return [out for _, out in found]


def test_fairseq_train_knows_its_options_and_logs_its_loss(run: TrainedRun) -> None:
    log = (run.folder.parent / "log").read_text()
    assert "alike_loss" in log and "balance_loss" in log
    settings = torch.load(run.folder / "checkpoint_last.pt", weights_only=False)["cfg"]
    assert settings["model"]["cosine_scale"] == 6.0 and settings["criterion"]["alike_weight"] == 0.2


def test_every_command_knows_it(run: TrainedRun, tmp_path: Path) -> None:
    folder, exported = str(run.folder), str(tmp_path / "exported")
    overrides = ["--config", "m4", "model=vanilla", "model.moe=cosine"]
    out = commands(
        ["evaluate", folder, "--device", "cpu", "--beam", "1"],
        ["analyse", folder, "--device", "cpu"],
        ["flops", folder, "--device", "cpu", "--format", "json"],
        ["flops", *overrides, "--format", "json"],
        ["plan", *overrides, "--ranks", "2", "--expert-parallel-size", "2", "--format", "json"],
        ["checkpoint", "inspect", folder, "--format", "json"],
        ["checkpoint", "average", folder, "--last", "2", "--out", str(tmp_path / "mean.pt")],
        ["export", folder, exported],
        [
            "evaluate",
            exported,
            "--data",
            str(run.data),
            "--device",
            "cpu",
            "--beam",
            "1",
            "--out",
            str(tmp_path / "out"),
        ],
        ["report", folder, "--out", str(tmp_path / "report.html")],
    )
    measured, planned = json.loads(out[2])[0], json.loads(out[3])[0]
    assert measured["measured_flops_per_token"] == measured["flops_per_token"]
    # three products of half the hidden units, twice: 1.5 FFNs for each of 6 blocks (d 512, FFN 2048)
    assert planned["terms"]["flops_per_token"]["encoder: MoE blocks"] == 3 * 1.5 * 4 * 512 * 2048
    assert json.loads(out[4])["rows"][0]["expert_parameters"] == 6 * 4 * 3 * 512 * 1024
    inspected = json.loads(out[5])["model"]
    assert (inspected["moe"], inspected["cosine_units"], inspected["num_experts"]) == ("cosine", "half", "4,3")
    card = (Path(exported) / "README.md").read_text()
    assert "mixture of gated experts with a cosine gate" in card and f"registers it in `{VARIABLE}` first" in card
    assert (tmp_path / "report.html").is_file()


def test_without_its_file_a_checkpoint_of_it_is_refused_in_one_line(run: TrainedRun) -> None:
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    command = [sys.executable, "-m", "smoe_mt.cli", "flops", str(run.folder), "--device", "cpu"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, cwd=REPOSITORY)
    assert done.returncode == 2
    assert "unknown system 'cosine'" in done.stderr and VARIABLE in done.stderr and "Traceback" not in done.stderr


def conforms(file: Path, name: str) -> None:
    environment = {**os.environ, VARIABLE: str(file)}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "tests/moe/test_conformance.py",
        "-k",
        name,
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, cwd=REPOSITORY)
    assert done.returncode == 0, done.stdout[-3000:]


def test_it_conforms() -> None:
    conforms(FILE, "cosine")


@pytest.mark.parametrize("name", ["mine", "any_number"])
def test_the_systems_of_the_documentation_conform(name: str, tmp_path: Path) -> None:
    page = (REPOSITORY / "docs/new_system.md").read_text("utf-8")
    (code,) = re.findall(rf"```python\n(# {name}\.py.*?)```", page, re.DOTALL)
    (tmp_path / f"{name}.py").write_text(code, encoding="utf-8")
    conforms(tmp_path / f"{name}.py", name)
