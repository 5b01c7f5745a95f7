"""What a batch holds, and what an epoch draws."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from fairseq import utils

from smoe_mt.tasks.collate import Sentence, Special, collate
from smoe_mt.tasks.sampling import shares

PAD, EOS, TAG = 1, 2, 40
SENTENCES = [
    Sentence(7, 0, TAG, np.array([5, 6, EOS], np.uint16), np.array([8, EOS], np.uint16)),
    Sentence(9, 3, TAG + 1, np.array([EOS], np.uint16), np.array([8, 9, 10, EOS], np.uint16)),
]


def test_a_batch_is_tagged_shifted_and_padded_on_the_right() -> None:
    batch = collate(SENTENCES, Special(PAD, EOS))
    assert batch["net_input"]["src_tokens"].tolist() == [[TAG, 5, 6, EOS], [TAG + 1, EOS, PAD, PAD]]
    assert batch["net_input"]["src_lengths"].tolist() == [4, 2]
    assert batch["target"].tolist() == [[8, EOS, PAD, PAD], [8, 9, 10, EOS]]
    assert batch["net_input"]["prev_output_tokens"].tolist() == [[EOS, 8, PAD, PAD], [EOS, 8, 9, 10]]
    assert (batch["ntokens"], batch["nsentences"]) == (6, 2)
    assert batch["id"].tolist() == [7, 9]
    assert batch["direction"].tolist() == [0, 3]
    assert batch["direction"].dtype == batch["target"].dtype == torch.int64
    assert "references" not in batch


def test_no_sentences_are_an_empty_shard() -> None:
    assert collate([], Special(PAD, EOS)) == {}


def test_directions_and_references_survive_the_way_to_a_device() -> None:
    scored = Sentence(1, 2, TAG, np.array([EOS]), np.array([EOS]), reference="raw")
    batch = collate([scored, SENTENCES[0]], Special(PAD, EOS))
    moved: dict[str, Any] = utils.apply_to_sample(lambda tensor: tensor.clone(), batch)
    assert moved["direction"].tolist() == [2, 0]
    assert moved["references"] == ["raw", None]


@pytest.fixture
def training(make_task: Any) -> Any:
    def load(**options: Any) -> Any:
        task = make_task(**options)
        task.load_dataset("train")
        return task.dataset("train")

    return load


def drawn(dataset: Any, epoch: int) -> Counter[str]:
    return Counter(dataset.locate(int(index))[0].name for index in dataset.draws(epoch, 0).indices)


def test_an_epoch_of_temperature_one_is_all_text_once(training: Any) -> None:
    assert sorted(training().draws(3, 0).indices.tolist()) == list(range(380))


def test_temperature_and_epoch_size_decide_the_draws(training: Any) -> None:
    dataset = training(sampling_temperature=1e6, epoch_pairs=1000)
    assert drawn(dataset, 1) == {"aa-en": 250, "en-aa": 250, "bb-en": 250, "en-bb": 250}


def in_windows(dataset: Any, window: int) -> Any:
    dataset.sampling = replace(dataset.sampling, window=window)
    return dataset


def test_windows_together_are_an_epoch(training: Any) -> None:
    dataset = in_windows(training(), 50)
    windows = [dataset.draws(1, window).indices.tolist() for window in range(dataset.windows)]
    assert dataset.windows == 8
    assert sorted(index for window in windows for index in window) == list(range(380))
    assert all(abs(len(window) - 380 / 8) < 4 for window in windows)


def test_each_window_mixes_the_directions_in_their_shares(training: Any) -> None:
    dataset = in_windows(training(sampling_temperature=3.0, epoch_pairs=2000), 100)
    expected = shares([150, 150, 40, 40], 3.0) * 100
    for window in range(dataset.windows):
        names = [dataset.locate(int(index))[0].name for index in dataset.draws(2, window).indices]
        found = [names.count(name) for name in ("aa-en", "en-aa", "bb-en", "en-bb")]
        assert (np.abs(found - expected) < 2).all()
        assert names != sorted(names)


def test_every_sentence_of_a_direction_is_as_likely(training: Any) -> None:
    """In the first window of an epoch that draws less than there is: chi-square over epochs, in standard deviations."""
    dataset = in_windows(training(sampling_temperature=3.0, epoch_pairs=100), 25)
    counts = np.bincount(
        np.concatenate([dataset.draws(epoch, 0).indices for epoch in range(1, 1201)]), minlength=len(dataset)
    )
    for first, last in zip(dataset.offsets, dataset.offsets[1:]):
        found = counts[first:last]
        expected = found.mean()
        chi_square = ((found - expected) ** 2).sum() / expected
        assert (chi_square - len(found)) / np.sqrt(2 * len(found)) < 4


def test_windows_differ_between_epochs(training: Any) -> None:
    """Also where every epoch has all of the text."""
    dataset = in_windows(training(), 95)
    first = [set(dataset.draws(epoch, 0).indices.tolist()) for epoch in (1, 2)]
    assert len(first[0] & first[1]) < 50  # 24 by chance


def test_a_window_can_be_drawn_alone(training: Any) -> None:
    one, other = in_windows(training(), 50), in_windows(training(), 50)
    for window in range(one.windows):
        one.draws(4, window)
    assert one.draws(4, 5).indices.tolist() == other.draws(4, 5).indices.tolist()


def test_draws_follow_from_seed_and_epoch(training: Any) -> None:
    first, again = training(epoch_pairs=50), training(epoch_pairs=50)
    other = training(epoch_pairs=50, seed=2)
    assert first.draws(5, 0).indices.tolist() == again.draws(5, 0).indices.tolist()
    assert first.draws(5, 0).indices.tolist() != first.draws(6, 0).indices.tolist()
    assert first.draws(5, 0).indices.tolist() != other.draws(5, 0).indices.tolist()


def test_lengths_are_those_of_the_batch(training: Any) -> None:
    dataset = training()
    draws = dataset.draws(1, 0)
    for place in range(0, len(draws), 40):
        batch = dataset.collater([dataset[int(draws.indices[place])]])
        assert batch["net_input"]["src_lengths"].tolist() == [draws.source_lengths[place]]
        assert batch["target"].shape == (1, draws.target_lengths[place])
        assert dataset.size(int(draws.indices[place])) == (draws.source_lengths[place], draws.target_lengths[place])


def test_both_directions_share_the_files_of_their_pair(make_task: Any) -> None:
    task = make_task()
    task.load_dataset("valid")
    forward, backward = (task.dataset("valid").texts[number] for number in (2, 3))
    assert (forward.name, backward.name) == ("bb-en", "en-bb")
    assert forward.source is backward.target and forward.target is backward.source


def test_evaluation_has_all_directions_in_order(make_task: Any) -> None:
    task = make_task()
    task.load_dataset("valid")
    dataset = task.dataset("valid")
    assert dataset.draws(1, 0).indices.tolist() == list(range(48))
    assert [dataset.locate(index)[0].name for index in (0, 11, 12, 24, 47)] == [
        "aa-en",
        "aa-en",
        "en-aa",
        "bb-en",
        "en-bb",
    ]


def test_a_split_holds_the_directions_that_have_text_in_it(make_task: Any) -> None:
    task = make_task()
    task.load_dataset("test")
    assert [text.name for text in task.dataset("test").texts] == ["aa-en", "en-aa"]
