"""The whole way on a toy task, through the real command lines: TSV text -> data folder -> training -> scores -> strata.

`aa` copies an English sentence in its own spelling, `bb` reverses it in another one: many-to-many, with the target language
known from the tag alone. The model must translate sentences that it never saw.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]
SYLLABLES = ["ba", "de", "fi", "go", "lu", "ma", "ne", "pi", "ro", "su"]


def command(*arguments: str, stdin: str = "") -> str:
    """Run a command line of the installed package; its standard output."""
    program = Path(sys.executable).parent / arguments[0]
    done = subprocess.run(
        [str(program), *arguments[1:]],
        check=False,
        input=stdin,
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def write_corpus(folder: Path) -> None:
    folder.mkdir()
    rng = random.Random(1)
    words = [first + second for first in SYLLABLES for second in SYLLABLES[:3]]
    sentences = {" ".join(rng.choices(words, k=rng.randint(4, 7))) for _ in range(3000)}
    for language, relation in (("aa", list), ("bb", lambda split: split[::-1])):
        lines = (f"{' '.join(language[0] + w for w in relation(s.split()))}\t{s}\n" for s in sorted(sentences))
        (folder / f"{language}-en.tsv").write_text("".join(lines), encoding="utf-8")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(data folder, run folder) of a stratified model trained on the toy corpus."""
    root = tmp_path_factory.mktemp("system")
    data, run = root / "data", root / "run"
    write_corpus(root / "text")
    sizes = ("--valid-size", "40", "--test-size", "60", "--min-test-words", "4", "--vocab-size", "420")
    command("smoe-mt", "prepare", "--corpus", f"tsv:{root / 'text'}", "--out", str(data), *sizes, "--workers", "1")
    dims = [f"--{side}-{name}" for side in ("encoder", "decoder") for name in ("embed-dim", "ffn-embed-dim")]
    command(
        *("fairseq-train", str(data), "--user-dir", "smoe_mt", "--task", "many_to_many_translation"),
        *("--arch", "smoe_transformer_tiny", "--moe", "stratified", "--strata", "2,2"),
        *(dims[0], "64", dims[1], "128", dims[2], "64", dims[3], "128", "--dropout", "0", "--attention-dropout", "0"),
        *("--criterion", "stratified_routing", "--label-smoothing", "0.1", "--optimizer", "adam"),
        *("--adam-betas", "(0.9, 0.98)", "--clip-norm", "1.0", "--lr", "0.005", "--lr-scheduler", "polynomial_decay"),
        *("--warmup-updates", "100", "--total-num-update", "700", "--max-update", "700", "--max-tokens", "1000"),
        *("--no-epoch-checkpoints", "--disable-validation", "--seed", "1", "--cpu", "--save-dir", str(run)),
        *("--log-format", "simple", "--num-workers", "0"),
    )
    return data, run


def test_unseen_sentences_are_translated(folders: tuple[Path, Path]) -> None:
    _, run = folders
    command("smoe-mt", "evaluate", str(run), "--split", "test", "--beam", "5")
    scores = json.loads((run / "evaluation" / "test" / "scores.json").read_text(encoding="utf-8"))
    bleu = {direction: values["bleu"] for direction, values in scores["directions"].items()}
    assert set(bleu) == {"aa-en", "en-aa", "bb-en", "en-bb"}
    assert min(bleu.values()) >= 90, bleu


def test_test_sentences_were_not_trained_on(folders: tuple[Path, Path]) -> None:
    data, _ = folders
    held_out = set((data / "text" / "test.aa-en.en").read_text(encoding="utf-8").split("\n")) - {""}
    in_bb = set((data / "text" / "test.bb-en.en").read_text(encoding="utf-8").split("\n")) - {""}
    counts = json.loads((data / "corpus.json").read_text(encoding="utf-8"))["splits"]
    assert len(held_out) == 60 == counts["test"]["aa-en"]
    assert held_out == in_bb, "languages share their test sentences"


def test_visits_vary(folders: tuple[Path, Path]) -> None:
    _, run = folders
    printed = command("smoe-mt", "analyse", str(run), "--split", "test")
    assert "COLLAPSE" not in printed
    found = json.loads((run / "analysis" / "test" / "requested_capacity.json").read_text(encoding="utf-8"))
    assert found["collapsed"] == []
    assert (run / "analysis" / "test" / "capacity_by_direction.png").stat().st_size > 5000


def test_raw_text_goes_in_and_out(folders: tuple[Path, Path]) -> None:
    data, run = folders
    sentences = (data / "text" / "test.bb-en.en").read_text(encoding="utf-8").splitlines()[:5]
    alone = [
        command("smoe-mt", "translate", "--model", str(run), "-s", "en", "-t", "bb", stdin=s + "\n")
        for s in sentences[:1]
    ]
    together = command(
        "smoe-mt", "translate", "--model", str(run), "-s", "en", "-t", "bb", stdin="\n".join(sentences) + "\n"
    )
    assert together.splitlines()[0] == alone[0].rstrip("\n")
    right = [" ".join("b" + word for word in reversed(s.split())) for s in sentences]
    assert sum(got == want for got, want in zip(together.splitlines(), right, strict=True)) >= 4
