"""Flipped bits at random places of every kind of file: each is found, told in one line, or changes no result.

``python -m tests.system.test_flips --count 5000`` tries more of them than the suite does (FLIPS=5000 in front of pytest, too).
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from smoe_mt.checkpoints.exported import read_exported
from smoe_mt.checkpoints.names import CONFIG, PARTS
from smoe_mt.checkpoints.reading import read_checkpoint
from smoe_mt.checkpoints.writing import write_sharded
from smoe_mt.errors import UserError
from smoe_mt.tasks.config import ManyToManyTranslationConfig
from smoe_mt.tasks.many_to_many_translation import ManyToManyTranslationTask
from tests.conftest import TrainedRun, train
from tests.toy import make_toy_folder, seal

COUNT = int(os.environ.get("FLIPS", "300"))
SEED = int(os.environ.get("FLIPS_SEED", "1"))


@dataclass(frozen=True)
class Kind:
    """Files of one kind, and what a command gets of them."""

    name: str
    files: tuple[Path, ...]
    result: Callable[[], Any]


def of_data(folder: Path, split: str) -> Any:
    """All that training or evaluation takes of a split."""
    settings = ManyToManyTranslationConfig(data=str(folder), seed=1, train_subset="train", eval_bleu=True)
    task = ManyToManyTranslationTask.setup_task(settings)
    task.load_dataset(split)
    texts = task.datasets[split].texts
    sides = [
        [file[line].tolist() for line in range(len(file))] for text in texts for file in (text.source, text.target)
    ]
    pieces = task.spm.encode("".join(task.dictionary.symbols[4:]), out_type=str)
    return task.directions, task.dictionary.symbols, [text.references for text in texts], sides, pieces


def of_checkpoint(path: Path) -> Any:
    """Weights and settings."""
    state = read_checkpoint(path)
    return {key: plain(value) for key, value in state.items() if key in ("model", "cfg", "task_state")}


def of_exported(folder: Path) -> Any:
    state = read_exported(folder / "model.safetensors")
    return {key: plain(value) for key, value in state.items() if key != "extra_state"}, of_vocabulary(folder)


def of_vocabulary(folder: Path) -> Any:
    task = ManyToManyTranslationTask.setup_task(ManyToManyTranslationConfig(data=str(folder)))
    return task.directions, task.dictionary.symbols


def plain(value: Any) -> Any:
    """Something that == compares."""
    if isinstance(value, Tensor):
        return value.dtype, tuple(value.shape), value.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    return vars(value) if isinstance(value, argparse.Namespace) else value


def kinds(run: TrainedRun, home: Path) -> list[Kind]:
    """A copy of every kind of file."""
    from smoe_mt import cli

    data, one, sharded, exported = (home / name for name in ("data", "one", "sharded", "exported"))
    shutil.copytree(run.data, data)
    seal(data)
    one.mkdir()
    sharded.mkdir()
    checkpoint = Path(shutil.copy(run.folder / "checkpoint_last.pt", one))
    write_sharded(torch.load(checkpoint, weights_only=True), sharded / "checkpoint_last.pt")
    if cli.main(["export", str(checkpoint), str(exported), "--data", str(data)]):
        raise RuntimeError("no export to flip bits of")
    parts = {name: (data / name,) for name in ("dict.txt", "spm.model", "directions.txt", "corpus.json")}
    parts |= {f".{ending}": tuple(sorted(data.glob(f"valid.*.{ending}"))) for ending in ("bin", "idx")}
    parts["text"] = tuple(sorted(data.glob("text/valid.*")))
    found = [Kind(name, files, lambda: of_data(data, "valid")) for name, files in parts.items()]
    found.append(Kind("checkpoint", (checkpoint,), lambda: of_checkpoint(checkpoint)))
    in_shards = tuple(sorted(path for path in sharded.rglob("*") if path.is_file()))
    found.append(Kind("sharded", in_shards, lambda: of_checkpoint(sharded / "checkpoint_last.pt")))
    of_export = tuple(exported / name for name in (CONFIG, *PARTS))
    found.append(Kind("exported", of_export, lambda: of_exported(exported)))
    return found


def flipped(path: Path, rng: random.Random) -> Iterator[str]:
    """The file with another bit for as long as this is open; yields where."""
    content = path.read_bytes()
    place, bit = rng.randrange(len(content)), rng.randrange(8)
    changed = bytearray(content)
    changed[place] ^= 1 << bit
    path.write_bytes(changed)
    try:
        yield f"{path.name}, byte {place:,}, bit {bit}"
    finally:
        path.write_bytes(content)


def failures(kind: Kind, count: int, seed: int) -> list[str]:
    """The flips of a kind that were believed, or told in another way than one line."""
    want = kind.result()
    rng = random.Random(f"{seed} {kind.name}")
    wrong = []
    for _ in range(count):
        for where in flipped(rng.choice(kind.files), rng):
            try:
                if kind.result() != want:
                    wrong.append(f"{where}: believed")
            except UserError as error:
                if "\n" in str(error) or len(str(error)) > 600:
                    wrong.append(f"{where}: {str(error)[:600]!r}")
            except Exception as error:  # noqa: BLE001  (any other is a fault of ours, and is told)
                wrong.append(f"{where}: {type(error).__name__}: {error}")
    return wrong


@pytest.fixture(scope="module")
def all_kinds(trained_run: TrainedRun, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Kind]:
    return {kind.name: kind for kind in kinds(trained_run, tmp_path_factory.mktemp("flips"))}


NAMES = (
    "dict.txt",
    "spm.model",
    "directions.txt",
    "corpus.json",
    ".bin",
    ".idx",
    "text",
    "checkpoint",
    "sharded",
    "exported",
)


@pytest.mark.parametrize("name", NAMES)
def test_a_flipped_bit_is_found_or_changes_nothing(name: str, all_kinds: dict[str, Kind]) -> None:
    assert failures(all_kinds[name], COUNT // len(NAMES), SEED) == []


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=COUNT, help="flips in all (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=SEED, help="default: %(default)s")
    args = parser.parse_args()
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        os.environ["XDG_CACHE_HOME"] = str(home / "cache")
        run = TrainedRun(home / "run", make_toy_folder(home / "toy"))
        train(run.data, run.folder, "--moe", "stratified", "--strata", "2,2")
        for kind in kinds(run, home):
            found = failures(kind, args.count // len(NAMES), args.seed)
            print(f"{kind.name:<16} {args.count // len(NAMES)} flips, {len(found)} wrong")
            wrong += found
    print(*wrong, sep="\n")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
