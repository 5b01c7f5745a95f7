from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from fairseq.data.indexed_dataset import MMapIndexedDatasetBuilder

from smoe_mt.errors import UserError
from smoe_mt.tasks.token_file import TokenFile

SENTENCES = [[5, 6, 7, 2], [2], [300, 2], [9, 9, 9, 9, 9, 2]]


def write(prefix: Path, sentences: list[list[int]], dtype: type = np.uint16) -> Path:
    builder = MMapIndexedDatasetBuilder(f"{prefix}.bin", dtype=dtype)
    for sentence in sentences:
        builder.add_item(torch.tensor(sentence))
    builder.finalize(f"{prefix}.idx")
    return prefix


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.int64])
def test_reads_what_fairseq_writes(tmp_path: Path, dtype: type) -> None:
    file = TokenFile(write(tmp_path / "x", SENTENCES, dtype))
    assert [file[line].tolist() for line in range(len(file))] == SENTENCES
    assert file.sizes.tolist() == [4, 1, 2, 6]


def test_the_name_may_have_dots(tmp_path: Path) -> None:
    assert len(TokenFile(write(tmp_path / "train.aa-en.en", SENTENCES))) == 4


def test_a_file_without_sentences_is_fine(tmp_path: Path) -> None:
    assert len(TokenFile(write(tmp_path / "x", []))) == 0


def test_travels_to_workers_as_a_path(tmp_path: Path) -> None:
    file = TokenFile(write(tmp_path / "x", SENTENCES * 1000))
    packed = pickle.dumps(file)
    assert len(packed) < 1000
    assert pickle.loads(packed)[3].tolist() == SENTENCES[3]


def test_keeps_no_file_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    files = [TokenFile(write(tmp_path / str(number), SENTENCES)) for number in range(20)]
    assert files and len(os.listdir("/proc/self/fd")) == before


def test_opening_reads_nothing_of_the_sentences(tmp_path: Path) -> None:
    """A .bin of 64 GiB, nearly all of it a hole, opens at once, and its last sentence can be read."""
    prefix = write(tmp_path / "x", [[5, 2]])
    size = 2**36
    with (tmp_path / "x.bin").open("r+b") as stream:
        stream.truncate(size)
    head = (tmp_path / "x.idx").read_bytes()[:26]
    count = np.array([2], dtype=np.int64).tobytes()
    sizes, offsets = np.array([2, 2], dtype=np.int32), np.array([0, size - 4], dtype=np.int64)
    (tmp_path / "x.idx").write_bytes(head[:18] + count + sizes.tobytes() + offsets.tobytes())
    assert TokenFile(prefix)[1].tolist() == [0, 0]


@pytest.mark.parametrize("missing", ["bin", "idx"])
def test_a_missing_file_is_named(tmp_path: Path, missing: str) -> None:
    prefix = write(tmp_path / "x", SENTENCES)
    (tmp_path / f"x.{missing}").unlink()
    with pytest.raises(UserError, match=rf"x\.{missing} is missing"):
        TokenFile(prefix)


@pytest.mark.parametrize("extension", ["bin", "idx"])
@pytest.mark.parametrize("change", [-1, 1])
def test_a_file_of_the_wrong_size_is_found_at_opening(tmp_path: Path, extension: str, change: int) -> None:
    prefix = write(tmp_path / "x", SENTENCES)
    path = tmp_path / f"x.{extension}"
    with path.open("r+b") as stream:
        stream.truncate(path.stat().st_size + change)
    with pytest.raises(UserError, match=rf"x\.{extension} is (cut short|too long)"):
        TokenFile(prefix)


@pytest.mark.parametrize("content", [b"", b"TNTIDX\x00\x00" + bytes(30), b"MMIDIDX\x00\x00" + bytes(17)])
def test_another_kind_of_index_is_refused(tmp_path: Path, content: bytes) -> None:
    prefix = write(tmp_path / "x", SENTENCES)
    (tmp_path / "x.idx").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.idx"):
        TokenFile(prefix)
