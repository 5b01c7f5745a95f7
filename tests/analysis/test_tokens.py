"""Token frequencies, means of tokens, and the sentences to look at."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from fairseq.data import Dictionary

from smoe_mt.analysis.forced import ForcedBatch
from smoe_mt.analysis.frequency import FrequencyRanks, ranks
from smoe_mt.analysis.sentences import ShownSentences
from smoe_mt.analysis.tokens import TokenCapacity
from smoe_mt.tasks.many_to_many_translation import ManyToManyTranslationTask
from smoe_mt.tasks.token_file import TokenFile
from tests.analysis.fake import BLOCKS, routing
from tests.toy import make_toy_folder


def toy_task(folder: Path) -> Any:
    from smoe_mt.tasks.config import ManyToManyTranslationConfig

    return ManyToManyTranslationTask.setup_task(ManyToManyTranslationConfig(data=str(folder)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_toy_folder(tmp_path_factory.mktemp("toy") / "data", sizes={"train": 50, "test": 10})


def test_equally_frequent_tokens_share_a_rank() -> None:
    assert ranks(np.array([5, 9, 5, 0, 1])).tolist() == [2, 1, 2, 5, 4]


def test_ranks_are_counted_over_all_pairs_of_a_language(folder: Path) -> None:
    task = toy_task(folder)
    frequency = FrequencyRanks(task, "test")
    found = frequency.of("en")
    files = [TokenFile(folder / f"train.{pair}.en") for pair in ("aa-en", "bb-en")]
    counts = sum(np.bincount(np.concatenate([file[i] for i in range(50)]), minlength=len(found)) for file in files)
    assert found.tolist() == ranks(counts).tolist()
    assert found[task.dictionary.eos()] == 1 and frequency.counted == {"en": "train"}


def test_without_training_text_held_out_text_is_counted_and_said(folder: Path, tmp_path: Path) -> None:
    alone = make_toy_folder(tmp_path / "alone", sizes={"train": 50, "test": 10})
    for file in alone.glob("train.*"):
        file.unlink()
    frequency = FrequencyRanks(toy_task(alone), "test")
    assert frequency.of("aa").min() == 1
    assert frequency.counted == {"aa": "test"}


def test_chunks_are_all_tokens_in_order(folder: Path) -> None:
    file = TokenFile(folder / "train.aa-en.aa")
    chunks = list(file.chunks(lines=7))
    assert [lines for lines, _ in chunks] == [7] * 7 + [1]
    assert np.array_equal(
        np.concatenate([tokens for _, tokens in chunks]), np.concatenate([file[i] for i in range(50)])
    )


@pytest.fixture
def dictionary() -> Dictionary:
    made = Dictionary()
    for symbol in ("a", "b", "c", "<2en>"):
        made.add_symbol(symbol)
    return made


def batch(source: list[list[int]], target: list[list[int]]) -> ForcedBatch:
    tensors = {"src_tokens": torch.tensor(source), "prev_output_tokens": torch.tensor(target)}
    return ForcedBatch(tuple(range(len(source))), tensors, tensors["prev_output_tokens"])


def token_capacity(dictionary: Dictionary, min_count: int = 1) -> tuple[TokenCapacity, io.StringIO]:
    stream = io.StringIO()
    task = SimpleNamespace(folder=SimpleNamespace(languages=("en",)))
    frequency: Any = SimpleNamespace(task=task, of=lambda language: np.arange(1, len(dictionary) + 1))
    return TokenCapacity(BLOCKS, dictionary, frequency, stream, min_count), stream


def test_means_are_per_direction_and_leave_tag_and_padding_out(dictionary: Dictionary) -> None:
    a, b, tag, pad, eos = (dictionary.index(s) for s in ("a", "b", "<2en>", "<pad>", "</s>"))
    capacity, stream = token_capacity(dictionary)
    for direction, visits in (("nso-en", [[2, 1, 2, 1], [2, 1, 0, 0]]), ("msa-en", [[1, 1, 1, 1], [1, 1, 0, 0]])):
        seen = batch([[tag, a, a, eos], [tag, b, pad, pad]], [[eos, a, a, b], [eos, b, pad, pad]])
        capacity.add(direction, seen, (routing(visits), routing(visits)))
        capacity.finish(direction)
    stream.seek(0)
    rows = {(r["direction"], r["side"], r["token"]): r for r in csv.DictReader(stream)}
    assert ("nso-en", "encoder", "<2en>") not in rows and not any(token == "<pad>" for _, _, token in rows)
    assert float(rows["nso-en", "encoder", "a"]["encoder.layers.1"]) == 1.5
    assert float(rows["msa-en", "encoder", "a"]["encoder.layers.1"]) == 1
    assert rows["nso-en", "decoder", "</s>"]["count"] == "2"
    assert rows["nso-en", "encoder", "a"]["frequency_rank"] == str(a + 1)


def test_lowest_and_highest_share_no_token_and_rare_ones_are_left_out(dictionary: Dictionary) -> None:
    a, b, c = (dictionary.index(symbol) for symbol in "abc")
    capacity, _ = token_capacity(dictionary, min_count=2)
    seen = batch([[a, a, b, b, c]], [[a, a, b, b, c]])
    capacity.add("nso-en", seen, (routing([[1, 1, 2, 1, 2]]), routing([[2, 2, 1, 1, 1]])))
    capacity.finish("nso-en")
    found = [(t.block.side, t.group, t.token, t.mean) for t in capacity.extremes]
    assert found == [
        ("encoder", "lowest", "a", 1.0),
        ("encoder", "highest", "b", 1.5),
        ("decoder", "lowest", "b", 1.0),
        ("decoder", "highest", "a", 2.0),
    ]


def test_first_sentences_are_kept_in_order(dictionary: Dictionary) -> None:
    a, b, pad = (dictionary.index(symbol) for symbol in ("a", "b", "<pad>"))
    shown = ShownSentences(BLOCKS, dictionary, number=1)
    read = batch([[a, b], [b, pad]], [[a, a], [a, pad]])
    seen = ForcedBatch((4, 0), read.net_input, read.target)
    shown.add("nso-en", seen, (routing([[1, 2], [2, 0]]), routing([[1, 1], [1, 0]])))
    assert shown.as_json() == {
        "nso-en": [
            {
                "line": 1,
                "encoder": {"tokens": ["b"], "visits": {"encoder.layers.1": [2]}},
                "decoder": {"tokens": ["a"], "visits": {"decoder.layers.1": [1]}},
            }
        ]
    }
