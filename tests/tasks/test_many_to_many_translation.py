from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from smoe_mt.errors import UserError
from smoe_mt.tasks.report import validation_table


def test_encode_puts_the_tag_in_front(make_task: Any) -> None:
    task = make_task()
    tokens = task.encode(task.folder.references("valid", "en-aa")[0], "bb")
    assert task.dictionary[int(tokens[0])] == "<2bb>"
    assert tokens[-1] == task.dictionary.eos()
    assert tokens.dtype == torch.int64


def test_encode_agrees_with_the_binarised_text(make_task: Any) -> None:
    task = make_task()
    task.load_dataset("valid")
    sources = task.folder.references("valid", "bb-en", side="source")
    dataset = task.dataset("valid")
    first = int(dataset.offsets[2])
    for line, source in enumerate(sources):
        batch = dataset.collater([dataset[first + line]])
        assert batch["net_input"]["src_tokens"][0].tolist() == task.encode(source, "en").tolist()


def test_decode_gives_raw_text_back(make_task: Any) -> None:
    task = make_task()
    for text in task.folder.references("valid", "aa-en"):
        padded = torch.cat([task.encode(text, "en"), torch.tensor([task.dictionary.pad()] * 2)])
        assert task.decode(padded) == text


def test_an_unknown_character_does_not_stop_anything(make_task: Any) -> None:
    task = make_task()
    assert task.dictionary.unk() in task.encode("\u4e2d", "en").tolist()


def test_collate_takes_encoded_sentences(make_task: Any) -> None:
    task = make_task()
    sources = [task.encode("lule", "bb"), task.encode("lule lule lule", "bb")]
    batch = task.collate(sources, [source[1:] for source in sources], direction="en-bb")
    assert batch["net_input"]["src_tokens"][1].tolist() == sources[1].tolist()
    assert batch["target"][1].tolist() == sources[1][1:].tolist() + [1] * (
        batch["target"].shape[1] - len(sources[1]) + 1
    )
    assert batch["direction"].tolist() == [3, 3]


def test_a_damaged_sentencepiece_model(make_task: Any, toy: Path) -> None:
    (toy / "spm.model").write_bytes(b"\x00\x01")
    with pytest.raises(UserError, match=r"spm\.model: not a SentencePiece model"):
        make_task(data=str(toy)).encode("lule", "en")


def test_all_directions_by_default(make_task: Any) -> None:
    assert make_task().directions == ("aa-en", "en-aa", "bb-en", "en-bb")


def test_a_list_of_directions(make_task: Any) -> None:
    task = make_task(directions="en-bb, aa-en,en-bb")
    assert task.directions == ("en-bb", "aa-en")
    task.load_dataset("valid")
    assert [text.number for text in task.dataset("valid").texts] == [0, 1]


def test_source_and_target_choose_one_direction(make_task: Any) -> None:
    assert make_task(source_lang="en", target_lang="bb").directions == ("en-bb",)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"directions": "aa-en,en-xx"}, "'en-xx'.*aa-en, en-aa"),
        ({"source_lang": "aa", "target_lang": "bb"}, "'aa-bb'"),
        ({"source_lang": "aa"}, "give both or neither"),
        ({"sampling_temperature": 0.0}, r"task\.sampling_temperature=0\.0: it must be a number above 0"),
        ({"epoch_pairs": -1}, r"task\.epoch_pairs=-1: it must be a whole number from 0"),
        ({"eval_bleu_beam": 0}, r"task\.eval_bleu_beam=0: it must be a whole number from 1"),
        ({"data": None}, "no data folder"),
        ({"data": "nowhere"}, "nowhere: no such data folder"),
    ],
)
def test_settings_that_cannot_be_served(make_task: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_task(**options)


def test_an_unknown_split(make_task: Any) -> None:
    with pytest.raises(UserError, match="unknown subset 'dev'"):
        make_task().load_dataset("dev")


def test_a_split_without_the_directions_in_use(make_task: Any) -> None:
    with pytest.raises(UserError, match="none of bb-en has text in the subset 'test'"):
        make_task(directions="bb-en").load_dataset("test")


def test_a_truncated_file_is_found_before_training(make_task: Any, toy: Path) -> None:
    with (toy / "train.bb-en.en.bin").open("r+b") as stream:
        stream.truncate(100)
    with pytest.raises(UserError, match=r"train\.bb-en\.en\.bin is cut short"):
        make_task(data=str(toy)).load_dataset("train")


def test_a_file_of_another_preparation_is_found_before_training(make_task: Any, toy: Path) -> None:
    for extension in ("bin", "idx"):
        shutil.copy(toy / f"train.aa-en.en.{extension}", toy / f"train.bb-en.en.{extension}")
    with pytest.raises(UserError, match=r"train\.bb-en\.en\.idx has 150 sentences, but corpus\.json says 40"):
        make_task(data=str(toy)).load_dataset("train")


def test_interactive_sentences_get_the_tag(make_task: Any) -> None:
    task = make_task(source_lang="en", target_lang="bb")
    tokens, lengths = task.get_interactive_tokens_and_lengths(["lule", "lule lule"], task.build_bpe(None).encode)
    dataset = task.build_dataset_for_inference(tokens, lengths)
    batch = dataset.collater([dataset[0], dataset[1]])
    for row, text in enumerate(["lule", "lule lule"]):
        expected = task.encode(text, "bb").tolist()
        found = batch["net_input"]["src_tokens"][batch["id"].tolist().index(row)].tolist()
        assert found[: len(expected)] == expected
        assert batch["net_input"]["src_lengths"][batch["id"].tolist().index(row)] == len(expected)


def test_interactive_without_a_direction(make_task: Any) -> None:
    with pytest.raises(UserError, match="-s nso -t en"):
        make_task().build_dataset_for_inference([torch.tensor([5, 2])], [2])


def test_the_folder_s_pieces_stand_in_for_a_bpe(make_task: Any) -> None:
    bpe = make_task().build_bpe(None)
    assert bpe.decode(bpe.encode("lule lule")) == "lule lule"
    assert bpe.decode("already raw") == "already raw"


def test_a_checkpoint_of_this_vocabulary_loads_wherever_the_folder_is(make_task: Any, toy: Path) -> None:
    elsewhere = toy.rename(toy.with_name("elsewhere"))
    make_task(data=str(elsewhere)).load_state_dict(make_task().state_dict())


def test_a_checkpoint_of_another_vocabulary_names_both(make_task: Any, toy: Path) -> None:
    path = toy / "dict.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[1], lines[0], *lines[2:]]) + "\n")
    other = make_task(data=str(toy))
    with pytest.raises(UserError, match=f"another vocabulary .*{other.vocabulary.sha256[:8]}.*"):
        other.load_state_dict(make_task().state_dict())


def test_a_table_of_what_was_measured_per_direction() -> None:
    stats = {"loss": 9.0, "rc_encoder/bb-en": 1.5, "loss/aa-en": 2.0, "rc_encoder/aa-en": 31.257, "a/b": 1}
    rows = [line.split() for line in validation_table(stats, ("bb-en", "aa-en")).splitlines()[1:]]
    assert rows == [["rc_encoder", "loss"], ["aa-en", "31.26", "2.00"], ["bb-en", "1.50", "-"]]


def test_no_table_where_nothing_was_measured_or_too_much() -> None:
    many = tuple(f"a{chr(97 + n // 26)}{chr(97 + n % 26)}-en" for n in range(60))
    assert validation_table({"loss": 1.0}, ("aa-en",)) == ""
    assert validation_table({f"bleu/{name}": 1.0 for name in many}, many) == ""
