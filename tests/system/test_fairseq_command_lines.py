"""fairseq's own command lines with the task, on models that were trained for a moment."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from fairseq import checkpoint_utils
from fairseq_cli import generate, interactive, train

from smoe_mt.errors import UserError
from smoe_mt.paths import user_dir
from smoe_mt.tasks import many_to_many_translation
from smoe_mt.tasks.dataset import WINDOW, Sampling
from tests.conftest import TrainedRun
from tests.toy import make_toy_folder

pytestmark = pytest.mark.slow

TINY = "--arch transformer --encoder-layers 1 --decoder-layers 1 --encoder-embed-dim 16 --decoder-embed-dim 16"
TINY += " --encoder-ffn-embed-dim 16 --decoder-ffn-embed-dim 16 --encoder-attention-heads 2 --decoder-attention-heads 2"
TINY += " --share-all-embeddings --dropout 0 --criterion label_smoothed_cross_entropy --optimizer adam --lr 0.01"
TINY += " --max-tokens 200 --no-progress-bar --log-format simple --no-epoch-checkpoints"

Run = Callable[..., str]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Runs a command line of fairseq in this process and returns what it printed."""

    def run_main(program: Callable[[], object], data: Path, options: str) -> str:
        command = f"fairseq {data} --user-dir {user_dir()} --task many_to_many_translation --cpu {options}"
        monkeypatch.setattr(sys, "argv", command.split())
        program()
        return capsys.readouterr().out

    yield run_main
    # fairseq keeps the best score so far on the function, for a process that trains once.
    vars(checkpoint_utils.save_checkpoint).pop("best", None)


def lines(printed: str, letter: str) -> dict[int, str]:
    """The last column of fairseq's numbered lines, such as D-7."""
    found = re.findall(rf"^{letter}-(\d+)\t(?:.*\t)?(.*)$", printed, flags=re.MULTILINE)
    return {int(number): text for number, text in found}


def test_generate_translates_one_direction(run: Run, trained_run: TrainedRun) -> None:
    options = f"-s bb -t en --gen-subset test --path {trained_run.folder}/checkpoint_last.pt --remove-bpe sentencepiece"
    printed = run(generate.cli_main, trained_run.data, options)
    sources = (trained_run.data / "text" / "test.bb-en.bb").read_text().splitlines()
    assert lines(printed, "S") == {number: f"<2en> {text}" for number, text in enumerate(sources)}
    assert len(lines(printed, "D")) == len(sources)
    assert "BLEU4" in printed


def test_generate_translates_all_directions(run: Run, trained_run: TrainedRun) -> None:
    options = f"--gen-subset test --path {trained_run.folder}/checkpoint_last.pt --remove-bpe sentencepiece"
    tags = [
        text.split()[0] for _, text in sorted(lines(run(generate.cli_main, trained_run.data, options), "S").items())
    ]
    size = len(tags) // 4
    assert tags == ["<2en>"] * size + ["<2aa>"] * size + ["<2en>"] * size + ["<2bb>"] * size


@pytest.mark.parametrize("bpe", ["", "--bpe sentencepiece --sentencepiece-model {data}/spm.model"])
def test_interactive_takes_raw_text(run: Run, trained_run: TrainedRun, bpe: str) -> None:
    text = trained_run.data / "text" / "test.aa-en.en"
    options = f"-s en -t aa --path {trained_run.folder}/checkpoint_last.pt --input {text} {bpe}"
    printed = run(interactive.cli_main, trained_run.data, options.format(data=trained_run.data))
    expected = text.read_text().splitlines()
    assert [source.replace(" ", "") for source in lines(printed, "S").values()] == [
        "<2aa>\u2581" + line.replace(" ", "\u2581") for line in expected
    ]
    assert len(lines(printed, "D")) == len(expected)
    assert "\u2581" not in "".join(lines(printed, "D").values())


def test_interactive_needs_a_direction(run: Run, trained_run: TrainedRun) -> None:
    options = f"--path {trained_run.folder}/checkpoint_last.pt --input {trained_run.data}/text/test.aa-en.en"
    with pytest.raises(UserError, match="give --source-lang and --target-lang"):
        run(interactive.cli_main, trained_run.data, options)


def test_generate_refuses_the_folder_of_another_vocabulary(run: Run, trained_run: TrainedRun, tmp_path: Path) -> None:
    other = make_toy_folder(tmp_path / "other", words=25, seed=9)
    with pytest.raises(UserError, match="another vocabulary .*other: "):
        run(generate.cli_main, other, f"--gen-subset test --path {trained_run.folder}/checkpoint_last.pt")


@pytest.mark.parametrize("window", [WINDOW, 100])
def test_training_goes_on_as_if_it_had_never_stopped(
    run: Run, toy_master: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    """Stopped in the middle of the second epoch, and resumed with another number of workers."""
    monkeypatch.setattr(many_to_many_translation, "Sampling", partial(Sampling, window=window))
    through, stopped = tmp_path / "through", tmp_path / "stopped"
    bleu = "--eval-bleu --eval-bleu-sentences 3 --best-checkpoint-metric bleu --maximize-best-checkpoint-metric"
    for folder, updates, workers in ((through, 25, 0), (stopped, 16, 0), (stopped, 25, 1)):
        options = f"{TINY} {bleu} --save-dir {folder} --max-update {updates} --num-workers {workers}"
        run(train.cli_main, toy_master, options)
    states = [torch.load(folder / "checkpoint_last.pt", weights_only=True) for folder in (through, stopped)]
    assert states[0]["extra_state"]["train_iterator"] == states[1]["extra_state"]["train_iterator"]
    assert states[0]["extra_state"]["train_iterator"]["epoch"] == 2
    for name, weights in states[0]["model"].items():
        assert torch.equal(weights, states[1]["model"][name]), name


def test_training_reports_bleu_per_direction(
    run: Run, toy_master: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = f"{TINY} --eval-bleu --save-dir {tmp_path} --max-update 2 --best-checkpoint-metric bleu --num-workers 0"
    options += " --maximize-best-checkpoint-metric"
    with caplog.at_level("INFO"):
        run(train.cli_main, toy_master, options)
    table = next(message for message in caplog.messages if message.startswith("validation per direction"))
    assert [row.split()[0] for row in table.splitlines()[2:]] == ["aa-en", "bb-en", "en-aa", "en-bb"]
    summary = next(message for message in caplog.messages if "valid on 'valid' subset |" in message)
    assert "| bleu " in summary and "bleu/" not in summary


@pytest.mark.parametrize("words", [20, 25])
def test_resuming_refuses_the_folder_of_another_vocabulary(
    run: Run, toy_master: Path, tmp_path: Path, words: int
) -> None:
    """Whether the vocabularies are of one size or not."""
    run(train.cli_main, toy_master, f"{TINY} --save-dir {tmp_path}/run --max-update 1 --num-workers 0")
    other = make_toy_folder(tmp_path / "other", words=words, seed=9)
    with pytest.raises(UserError, match="another vocabulary .*other: "):
        run(train.cli_main, other, f"{TINY} --save-dir {tmp_path}/run --max-update 2 --num-workers 0")


def test_resuming_from_a_damaged_checkpoint(run: Run, toy_master: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoint_last.pt").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(UserError, match=r"checkpoint_last\.pt: not a whole fairseq checkpoint"):
        run(train.cli_main, toy_master, f"{TINY} --save-dir {tmp_path} --max-update 1 --num-workers 0")


def test_a_mistake_on_the_command_line_is_one_line(toy_master: Path, tmp_path: Path) -> None:
    command = f"-m fairseq_cli.train {toy_master} --user-dir {user_dir()} --task many_to_many_translation {TINY}"
    command += f" --directions aa-xx --save-dir {tmp_path} --cpu --max-update 1"
    done = subprocess.run([sys.executable, *command.split()], check=False, capture_output=True, text=True)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr + done.stdout
    known = "aa-en, en-aa, bb-en, en-bb"
    assert done.stderr.splitlines()[-1] == f"error: unknown direction 'aa-xx': {toy_master} has {known}"
