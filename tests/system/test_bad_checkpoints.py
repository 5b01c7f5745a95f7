"""No verb runs what a file holds, and each says in one line what is wrong with a file, and leaves with 2."""

from __future__ import annotations

import os
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from smoe_mt import cli
from smoe_mt.checkpoints.writing import write_sharded
from tests.conftest import TrainedRun
from tests.toy import make_toy_folder

MODEL = ["encoder_embed_dim=32", "encoder_ffn_embed_dim=64", "decoder_embed_dim=32", "decoder_ffn_embed_dim=64"]
MODEL += ["moe=stratified", "strata=[2,2]"]
TRAIN = ["train", "model=smoe_2_2", "common.cpu=true", "dataset.max_tokens=500", "dataset.num_workers=0"]
TRAIN += ["optimization.max_update=1", *(f"model.{setting}" for setting in MODEL)]

Arguments = Callable[[Path, Path, Path], list[str]]  # of the checkpoint, the data folder, and a folder to write to
READING: dict[str, Arguments] = {
    "translate": lambda file, data, out: [
        "translate",
        "-m",
        f"{file}",
        "-s",
        "aa",
        "-t",
        "en",
        f"{data}/text/test.aa-en.aa",
    ],
    "evaluate": lambda file, data, out: ["evaluate", f"{file}", "--device", "cpu", "--out", f"{out}"],
    "analyse": lambda file, data, out: ["analyse", f"{file}", "--device", "cpu", "--out", f"{out}"],
    "report": lambda file, data, out: ["report", f"{file}", "--out", f"{out}/report.html"],
    "export": lambda file, data, out: ["export", f"{file}", f"{out}/exported"],
    "inspect": lambda file, data, out: ["checkpoint", "inspect", f"{file}"],
    "convert": lambda file, data, out: ["checkpoint", "convert", f"{file}", f"{out}/converted.pt"],
    "average": lambda file, data, out: [
        "checkpoint",
        "average",
        f"{file}",
        f"{out}/good.pt",
        "--out",
        f"{out}/mean.pt",
    ],
}
TRAINING: dict[str, Arguments] = {
    "resume": lambda file, data, out: [*TRAIN, f"task.data={data}", f"checkpoint.save_dir={file.parent}"],
    "finetune": lambda file, data, out: [
        *(*TRAIN, f"task.data={data}", f"checkpoint.save_dir={out}/run"),
        f"checkpoint.finetune_from_model={file}",
    ],
    "init experts": lambda file, data, out: [
        *(*TRAIN, f"task.data={data}", f"checkpoint.save_dir={out}/run"),
        f"model.init_experts_from={file}",
    ],
}


class Runs:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.marker}",)


def malicious(file: Path, marker: Path) -> None:
    state = torch.load(file, weights_only=True)
    torch.save({**state, "extra_state": {**state["extra_state"], "more": Runs(marker)}}, file)


def malicious_pickle(file: Path, marker: Path) -> None:
    file.write_bytes(pickle.dumps({"model": Runs(marker)}))


def cut(file: Path, _marker: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 6 // 10])


def flipped(file: Path, _marker: Path) -> None:
    weight = torch.load(file, weights_only=True)["model"]["encoder.layers.0.fc1.weight"].numpy().tobytes()
    flip(file, file.read_bytes().index(weight) + 3)


def flip(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


def shard_of(file: Path) -> Path:
    """The tensors of the checkpoint, which becomes a sharded one."""
    write_sharded(torch.load(file, weights_only=True), file)
    (shard,) = file.parent.glob("shards_*/*")
    return shard


def malicious_tensors(file: Path, marker: Path) -> None:
    shard = shard_of(file)
    for name in (shard.name, ".metadata", "__0.metadata"):
        (shard.parent / name).write_bytes(pickle.dumps(Runs(marker)))


def flipped_tensors(file: Path, _marker: Path) -> None:
    flip(shard_of(file), -3)


def cut_tensors(file: Path, marker: Path) -> None:
    cut(shard_of(file), marker)


Damage = Callable[[Path, Path], None]
DAMAGES: list[Damage] = [malicious, malicious_pickle, cut, flipped, malicious_tensors, flipped_tensors, cut_tensors]


def in_a_process(arguments: list[str], home: Path, main: Callable[[list[str]], int] = cli.main) -> tuple[int, str]:
    """Exit code and standard error of ``smoe-mt``, in a process of its own, which has everything imported already."""
    errors = home / "stderr"
    child = os.fork()
    if not child:
        code = 99
        try:
            os.chdir(home)
            with errors.open("w") as stderr, (home / "stdout").open("w") as stdout:
                os.dup2(stderr.fileno(), 2)
                os.dup2(stdout.fileno(), 1)
                sys.stderr, sys.stdout = stderr, stdout
                code = main(arguments)
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), errors.read_text()


@pytest.fixture(scope="module", autouse=True)
def everything_imported() -> None:
    import fairseq_cli.hydra_train  # noqa: F401

    import smoe_mt.analysis.command
    import smoe_mt.evaluation.command
    import smoe_mt.report.command  # noqa: F401


@pytest.fixture
def checkpoint(trained_run: TrainedRun, tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    return Path(shutil.copy(trained_run.folder / "checkpoint_last.pt", folder))


def out_folder(home: Path, good: Path) -> Path:
    out = home / "out"
    out.mkdir()
    shutil.copy(good, out / "good.pt")
    return out


@pytest.mark.parametrize("damage", [malicious, malicious_pickle, malicious_tensors], ids=lambda one: one.__name__)
def test_what_is_malicious_here_would_run_if_it_were_let(damage: Damage, checkpoint: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    damage(checkpoint, marker)
    for file in (checkpoint, *checkpoint.parent.glob("shards_*/*"), *checkpoint.parent.glob("shards_*/.*")):
        try:
            torch.load(file, weights_only=False) if damage is malicious else pickle.loads(file.read_bytes())
        except (pickle.UnpicklingError, RuntimeError):
            continue
    assert marker.exists()


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda one: one.__name__)
@pytest.mark.parametrize("verb", list(READING))
def test_verbs_that_read(verb: str, damage: Damage, checkpoint: Path, trained_run: TrainedRun, tmp_path: Path) -> None:
    if verb == "report" and damage in (flipped, malicious_tensors, flipped_tensors, cut_tensors):
        pytest.skip("a report reads no weights")
    check(READING[verb], damage, checkpoint, trained_run.data, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("damage", [malicious, flipped, malicious_tensors], ids=lambda one: one.__name__)
@pytest.mark.parametrize("verb", list(TRAINING))
def test_verbs_that_train(verb: str, damage: Damage, checkpoint: Path, trained_run: TrainedRun, tmp_path: Path) -> None:
    check(TRAINING[verb], damage, checkpoint, trained_run.data, tmp_path)


def check(arguments: Arguments, damage: Damage, checkpoint: Path, data: Path, home: Path) -> None:
    marker, out = home / "ran", out_folder(home, checkpoint)
    damage(checkpoint, marker)
    code, errors = in_a_process(arguments(checkpoint, data, out), home)
    assert not marker.exists()
    assert code == 2, errors
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and checkpoint.parent.name in lines[0], errors
    assert "Traceback" not in errors
    assert sorted(path.name for path in out.rglob("*") if path.is_file() and path.suffix != ".log") == ["good.pt"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "verb", ["translate", "evaluate", "analyse", "export", "resume", "finetune", "init experts", "average"]
)
def test_another_vocabulary(verb: str, checkpoint: Path, trained_run: TrainedRun, tmp_path: Path) -> None:
    """Of the same size, so that no shape tells."""
    out = out_folder(tmp_path, checkpoint)
    data = Path(shutil.copytree(trained_run.data, tmp_path / "data"))
    lines = (data / "dict.txt").read_text(encoding="utf-8").splitlines()
    (data / "dict.txt").write_text("".join(f"{line}\n" for line in reversed(lines)), encoding="utf-8")
    if verb == "average":
        state = torch.load(checkpoint, weights_only=True)
        state["task_state"]["vocabulary"]["sha256"] = "0" * 64
        torch.save(state, checkpoint)
    arguments = {**READING, **TRAINING}[verb](checkpoint, data, out)
    if verb in ("translate", "evaluate", "analyse", "export"):
        arguments += ["--data", str(data)]
    code, errors = in_a_process(arguments, tmp_path)
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert code == 2 and len(lines) == 1, errors
    assert "vocabular" in lines[0] and "Traceback" not in errors


@pytest.mark.parametrize("part", ["dict.txt", "spm.model", "corpus.json"])
def test_a_malicious_part_of_a_data_folder(
    part: str, checkpoint: Path, trained_run: TrainedRun, tmp_path: Path
) -> None:
    data, marker = Path(shutil.copytree(trained_run.data, tmp_path / "data")), tmp_path / "ran"
    (data / part).write_bytes(pickle.dumps(Runs(marker)))
    arguments = [*READING["translate"](checkpoint, data, tmp_path), "--data", str(data)]
    code, errors = in_a_process(arguments, tmp_path)
    assert code == 2 and errors.count("\n") == 1 and part in errors
    assert not marker.exists()


def test_a_malicious_safetensors_file(checkpoint: Path, trained_run: TrainedRun, tmp_path: Path) -> None:
    exported, marker = tmp_path / "exported", tmp_path / "ran"
    assert cli.main(["export", str(checkpoint), str(exported)]) == 0
    (exported / "model.safetensors").write_bytes(pickle.dumps(Runs(marker)))
    for verb in ("translate", "inspect", "convert"):
        code, errors = in_a_process(READING[verb](exported, trained_run.data, tmp_path), tmp_path)
        assert code == 2 and errors.count("\n") == 1 and "model.safetensors is not the file that was exported" in errors
    assert not marker.exists()


def test_a_foreign_model_for_another_data_folder(checkpoint: Path, tmp_path: Path) -> None:
    """A malicious dictionary, and one that is another's."""
    state = torch.load(checkpoint, weights_only=True)
    state["cfg"]["model"]["_name"] = "transformer"
    torch.save(state, checkpoint)
    marker = tmp_path / "ran"
    (tmp_path / "dict.txt").write_bytes(pickle.dumps(Runs(marker)))
    data = make_toy_folder(tmp_path / "other", words=11, seed=5)
    arguments = ["checkpoint", "convert", str(checkpoint), str(tmp_path / "x.pt"), "--data", str(data)]
    for more in ([], ["--dictionary", str(tmp_path / "dict.txt")]):
        code, errors = in_a_process([*arguments, *more], tmp_path)
        assert code == 2 and errors.count("\n") == 1 and "dict" in errors
    assert not marker.exists()
