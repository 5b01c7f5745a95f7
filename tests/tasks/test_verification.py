"""What is found of a changed data folder, and when files are read again."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from fairseq.data.indexed_dataset import MMapIndexedDatasetBuilder

from smoe_mt.checksums import sealed
from smoe_mt.errors import UserError
from smoe_mt.tasks import verification
from smoe_mt.tasks.config import ManyToManyTranslationConfig
from smoe_mt.tasks.data_folder import DataFolder
from smoe_mt.tasks.many_to_many_translation import ManyToManyTranslationTask
from tests.toy import seal


@pytest.fixture
def prepared(toy: Path) -> Path:
    """A folder with checksums, as `prepare` writes it."""
    seal(toy)
    return toy


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are read through."""
    names: list[str] = []
    original = verification._check

    def check(path: Path, *args: object) -> None:
        names.append(path.name)
        original(path, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(verification, "_check", check)
    monkeypatch.setattr(verification, "SETTLED", -1)  # files of a test are young
    return names


def flip(path: Path, place: int = -1, bit: int = 1) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= bit
    path.write_bytes(content)


def load(folder: Path, split: str = "train", **options: object) -> None:
    settings = {"data": str(folder), "seed": 1, "train_subset": "train", **options}
    ManyToManyTranslationTask.setup_task(ManyToManyTranslationConfig(**settings)).load_dataset(split)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name", ["dict.txt", "spm.model", "directions.txt", "train.aa-en.en.bin", "train.bb-en.bb.idx"]
)
def test_a_flipped_bit_is_found_by_the_checksum(prepared: Path, name: str) -> None:
    load(prepared)
    flip(prepared / name, place=(prepared / name).stat().st_size // 2)
    with pytest.raises(UserError, match=f"{name} .*prepare the data folder again"):
        load(prepared)


def test_a_flipped_bit_in_held_out_text_is_found(prepared: Path) -> None:
    flip(prepared / "text" / "valid.aa-en.en", place=3)
    with pytest.raises(UserError, match=r"valid\.aa-en\.en is not what was prepared"):
        DataFolder.open(prepared).references("valid", "aa-en")


def test_cut_directions_are_found(prepared: Path) -> None:
    (prepared / "directions.txt").write_text("aa-en\n")
    with pytest.raises(UserError, match=r"directions\.txt is not what was prepared"):
        DataFolder.open(prepared)


def test_a_changed_value_of_the_card_is_found_and_other_white_space_is_not(prepared: Path) -> None:
    card = json.loads((prepared / "corpus.json").read_text())
    (prepared / "corpus.json").write_text(json.dumps(card))
    DataFolder.open(prepared)
    (prepared / "corpus.json").write_text(json.dumps({**card, "corpus": "other"}))
    with pytest.raises(UserError, match=r"corpus\.json is not what was prepared"):
        DataFolder.open(prepared)


def test_a_file_that_is_used_but_has_no_checksum_is_named(prepared: Path) -> None:
    card = json.loads((prepared / "corpus.json").read_text())
    del card["checksums"]["train.aa-en.aa.bin"]
    (prepared / "corpus.json").write_text(json.dumps(sealed(card)))
    with pytest.raises(UserError, match=r"no checksum of train\.aa-en\.aa\.bin"):
        load(prepared)


def test_a_folder_without_its_training_text_serves_what_needs_none(prepared: Path) -> None:
    for path in prepared.glob("train.*"):
        path.unlink()
    assert len(DataFolder.open(prepared).references("valid", "aa-en")) == 12
    with pytest.raises(UserError, match=r"train\.aa-en\.aa\.idx is missing"):
        load(prepared)


def test_a_file_is_read_once_until_it_changes(prepared: Path, checked: list[str]) -> None:
    load(prepared)
    assert len(checked) == 3 + 8
    checked.clear()
    load(prepared)
    assert checked == []
    os.utime(prepared / "train.aa-en.aa.bin", ns=(1, 1))
    load(prepared)
    assert checked == ["train.aa-en.aa.bin"]


def test_a_change_that_keeps_size_and_time_of_modification_is_found(prepared: Path, checked: list[str]) -> None:
    load(prepared)
    path = prepared / "train.aa-en.aa.bin"
    times = path.stat()
    flip(path)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(UserError, match=r"aa\.bin is not what was prepared"):
        load(prepared)


def test_a_file_that_has_just_been_written_is_not_remembered(
    prepared: Path, checked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another change within the clock's grain would leave no trace."""
    monkeypatch.setattr(verification, "SETTLED", 2_000_000_000)
    load(prepared)
    load(prepared)
    assert len(checked) == 2 * (3 + 8)


@pytest.mark.parametrize("copy", [shutil.copytree, shutil.move])
def test_a_folder_elsewhere_is_read_again(
    copy: Callable[[Path, Path], object], prepared: Path, checked: list[str], tmp_path: Path
) -> None:
    load(prepared)
    checked.clear()
    copy(prepared, tmp_path / "elsewhere")
    load(tmp_path / "elsewhere")
    assert len(checked) == 3 + 8


def test_nothing_in_the_folder_says_that_it_was_checked(prepared: Path, checked: list[str]) -> None:
    before = sorted(path.name for path in prepared.rglob("*"))
    load(prepared)
    assert sorted(path.name for path in prepared.rglob("*")) == before


@pytest.mark.parametrize("content", ["", "[]", "{", '{"dict.txt": 1}', "[" * 100_000])
def test_a_damaged_record_means_to_read_again(prepared: Path, checked: list[str], content: str) -> None:
    load(prepared)
    verification._Memory(prepared)._file.write_text(content)
    checked.clear()
    load(prepared)
    assert len(checked) == 3 + 8


def test_where_nothing_can_be_remembered_files_are_read_each_time(
    prepared: Path, checked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    load(prepared)
    load(prepared)
    assert len(checked) == 2 * (3 + 8)


def test_verify_reads_all_of_the_folder_again(prepared: Path, checked: list[str]) -> None:
    load(prepared)
    checked.clear()
    load(prepared, verify=True)
    files = [path for path in prepared.rglob("*") if path.is_file() and path.name != "corpus.json"]
    assert sorted(checked) == sorted(path.name for path in files)


def test_verify_finds_damage_in_a_split_that_is_not_used(prepared: Path) -> None:
    flip(prepared / "text" / "test.aa-en.en", place=2)
    load(prepared)
    with pytest.raises(UserError, match=r"test\.aa-en\.en is not what was prepared"):
        load(prepared, verify=True)


def test_several_processes_take_turns_and_one_checks(prepared: Path, checked: list[str]) -> None:
    folder = DataFolder.open(prepared)
    checked.clear()
    threads = [threading.Thread(target=folder.verify_text, args=("train", folder.directions)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(checked) == 8


def test_verify_lets_a_folder_be_without_the_text_of_a_split_but_not_of_one_file(prepared: Path) -> None:
    for path in prepared.glob("train.*"):
        path.unlink()
    load(prepared, "valid", verify=True)
    (prepared / "valid.aa-en.en.bin").unlink()
    with pytest.raises(UserError, match=r"valid\.aa-en\.en\.bin is missing"):
        load(prepared, "valid", verify=True)


# --- folders without checksums ---


def rewrite(prefix: Path, sentences: list[list[int]]) -> None:
    builder = MMapIndexedDatasetBuilder(f"{prefix}.bin", dtype=np.uint16)
    for sentence in sentences:
        builder.add_item(torch.tensor(sentence))
    builder.finalize(f"{prefix}.idx")


def test_a_token_beyond_the_vocabulary_is_found(toy: Path) -> None:
    size = len(DataFolder.open(toy).dictionary())
    rewrite(toy / "valid.aa-en.en", [[4, 2]] * 11 + [[size, 2]])
    with pytest.raises(UserError, match=rf"valid\.aa-en\.en\.bin holds token {size}"):
        load(toy, "valid")


def test_another_number_of_sentences_is_found(toy: Path) -> None:
    rewrite(toy / "valid.aa-en.en", [[4, 2]] * 11)
    with pytest.raises(UserError, match="has 11 sentences, but corpus.json says 12"):
        load(toy, "valid")


@pytest.mark.parametrize("field", ["size", "offset"])
def test_a_sentence_that_is_not_where_the_one_before_ends_is_found(toy: Path, field: str) -> None:
    path = toy / "valid.aa-en.en.idx"
    flip(path, place=26 + 4 * 3 if field == "size" else 26 + 4 * 12 + 8 * 3)
    with pytest.raises(UserError, match=r"valid\.aa-en\.en\.idx: sentence [45] has no place of its own"):
        load(toy, "valid")


@pytest.mark.parametrize(
    "changes",
    [
        {"pairs": ["../aa-en"]},
        {"pairs": "aa-en"},
        {"pairs": [1]},
        {"splits": {"../train": {"aa-en": 1}}},
        {"splits": {"train": {"aa-en": -1}}},
        {"splits": {"train": {"aa-en": 1.5}}},
        {"splits": {"train": {"aa-cc": 1}}},
        {"splits": {"train": 1}},
        {"checksums": [1]},
        {"vocab_size": "many"},
    ],
)
def test_a_card_that_makes_no_sense_is_refused(toy: Path, changes: dict[str, object]) -> None:
    card = json.loads((toy / "corpus.json").read_text())
    (toy / "corpus.json").write_text(json.dumps({**card, **changes}))
    with pytest.raises(UserError, match=r"corpus\.json.*(make no sense|cannot be the name of a file)"):
        DataFolder.open(toy)


@pytest.mark.parametrize("line", ["piece", "piece many", "piece -1", "piece " + "9" * 100_000, "<2aa> 1", " 1"])
def test_a_line_of_the_dictionary_that_makes_no_sense_is_named(toy: Path, line: str) -> None:
    path = toy / "dict.txt"
    count = len(path.read_text().splitlines())
    path.write_text(f"{path.read_text()}{line}\n")
    with pytest.raises(UserError, match=rf"dict\.txt, line {count + 1}: .{{1,100}}$"):
        DataFolder.open(toy).dictionary()


def test_a_part_that_is_far_too_large_is_not_read(toy: Path) -> None:
    with (toy / "spm.model").open("r+b") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(UserError, match=r"spm\.model has more than 268,435,456 bytes"):
        DataFolder.open(toy)


@pytest.mark.parametrize("content", [b"aa-en\n\xff\n", b"aa-en\naa-en\n", b"a" * 10_000])
def test_directions_that_make_no_sense_are_refused(toy: Path, content: bytes) -> None:
    (toy / "directions.txt").write_bytes(content)
    with pytest.raises(UserError, match=r"directions\.txt.{1,200}$"):
        DataFolder.open(toy)
