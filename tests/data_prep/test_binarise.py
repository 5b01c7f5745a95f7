"""SentencePiece and fairseq's files: what is written is what fairseq reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from fairseq.data.dictionary import Dictionary
from fairseq.data.indexed_dataset import MMapIndexedDataset

from data_prep.binarise import Vocabulary, binarise_pair
from data_prep.spm import SpmOptions, train_spm
from tests.data_prep.test_spm import TEXTS, sample_of


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("spm")
    return train_spm(sample_of(TEXTS, folder), 300, SpmOptions(300))


@pytest.mark.parametrize("workers", [1, 2])
def test_round_trip_through_fairseq(tmp_path: Path, model: bytes, workers: int) -> None:
    vocabulary = Vocabulary.of(model, ["xaa", "en"])
    sides = TEXTS["xaa"] + ["unseen 猫 ñ"], TEXTS["en"] + ["end"]
    prefixes = tmp_path / "a", tmp_path / "b"
    done = binarise_pair(zip(*sides), prefixes, model, len(vocabulary), None, workers)
    vocabulary.write(tmp_path / "dict.txt", done.counts)
    dictionary = Dictionary.load(str(tmp_path / "dict.txt"))
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    for prefix, side in zip(prefixes, sides):
        dataset = MMapIndexedDataset(str(prefix))
        assert len(dataset) == len(side) == done.written
        for item, text in zip(dataset, side):
            assert item[-1] == dictionary.eos()
            pieces = [dictionary[index] for index in item[:-1]]
            assert pieces == processor.encode(text, out_type=str)
    assert dictionary.unk() not in np.flatnonzero(done.counts)


def test_dictionary_has_the_tags_and_a_size_divisible_by_8(tmp_path: Path, model: bytes) -> None:
    vocabulary = Vocabulary.of(model, ["xbb", "en", "xaa"])
    vocabulary.write(tmp_path / "dict.txt", np.ones(len(vocabulary), dtype=np.int64))
    dictionary = Dictionary.load(str(tmp_path / "dict.txt"))
    assert len(dictionary) == vocabulary.padded_size and len(dictionary) % 8 == 0
    tags = [dictionary.index(tag) for tag in ("<2en>", "<2xaa>", "<2xbb>")]
    assert tags == list(range(tags[0], tags[0] + 3)) and dictionary.unk() not in tags


def test_overlong_training_pairs_are_left_out_on_both_sides(tmp_path: Path, model: bytes) -> None:
    sides = ["katu meri", "katu " * 400, "lolo"], ["street sea", "street", "tree"]
    done = binarise_pair(zip(*sides), (tmp_path / "a", tmp_path / "b"), model, 320, 250, 1)
    assert (done.written, done.too_long) == (2, 1)
    assert [len(MMapIndexedDataset(str(tmp_path / name))) for name in ("a", "b")] == [2, 2]


def test_small_vocabularies_take_two_bytes_a_token(tmp_path: Path, model: bytes) -> None:
    binarise_pair([("katu", "street")], (tmp_path / "a", tmp_path / "b"), model, 320, None, 1)
    tokens = sum(len(item) for item in MMapIndexedDataset(str(tmp_path / "a")))
    assert (tmp_path / "a.bin").stat().st_size == 2 * tokens
