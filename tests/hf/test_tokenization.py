"""Text to ids and back as `smoe-mt translate` does it, with the languages of transformers' translation tokenizers."""

from __future__ import annotations

import copy
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers", minversion="5")

from transformers import AutoTokenizer

from smoe_mt import Translator
from smoe_mt.checkpoints.names import FROM_DATA_FOLDER
from smoe_mt.errors import UserError
from smoe_mt.hf import SMoETokenizer


@pytest.fixture
def tokenizer(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder, src_lang="aa", tgt_lang="en")


def test_a_source_is_what_our_task_makes_of_it(tokenizer: Any, ours: Translator, sentences: list[str]) -> None:
    odd = [*sentences, "", "  \u00a0x\u0301 ", "</s> <2bb> <pad> <unk>", "\u4f60"]
    task = ours.loaded.task
    assert tokenizer(odd)["input_ids"] == [task.encode(line, "en").tolist() for line in odd]


def test_the_target_language_is_the_tag(tokenizer: Any, ours: Translator) -> None:
    tokenizer.src_lang, tokenizer.tgt_lang = "en", "bb"
    assert tokenizer("a")["input_ids"] == ours.loaded.task.encode("a", "bb").tolist()
    assert tokenizer.convert_tokens_to_ids("<2bb>") == ours.loaded.task.tag("bb")
    with pytest.raises(UserError, match="unknown language 'xx'"):
        tokenizer.tgt_lang = "xx"


def test_a_target_has_no_tag(tokenizer: Any, sentences: list[str]) -> None:
    both = tokenizer(sentences[0], text_target=sentences[1])
    assert both["labels"] == tokenizer(sentences[1])["input_ids"][1:]
    assert tokenizer(sentences[0])["input_ids"] == both["input_ids"], "back to sources afterwards"


def test_ids_become_the_text_that_we_print(tokenizer: Any, ours: Translator, sentences: list[str]) -> None:
    task = ours.loaded.task
    ids = [*task.encode(sentences[0], "en").tolist(), tokenizer.unk_token_id, tokenizer.pad_token_id]
    assert tokenizer.decode(ids, skip_special_tokens=True) == task.decode(ids)
    assert tokenizer.decode(ids).startswith("<2en>")


def test_a_long_source_is_cut_as_ours(tokenizer: Any, ours: Translator, sentences: list[str]) -> None:
    line = " ".join(sentences)
    with pytest.warns(UserWarning, match="is cut to the 64"):
        expected = ours._encode(line, "en").tolist()
    assert tokenizer(line, truncation=True)["input_ids"] == expected


def test_saved_copied_or_pickled_it_is_the_same(tokenizer: Any, tmp_path: Path, sentences: list[str]) -> None:
    tokenizer.tgt_lang = "bb"
    tokenizer.save_pretrained(tmp_path)
    assert {*FROM_DATA_FOLDER, "tokenizer_config.json"} <= {path.name for path in tmp_path.iterdir()}
    others = (AutoTokenizer.from_pretrained(tmp_path), copy.deepcopy(tokenizer), pickle.loads(pickle.dumps(tokenizer)))
    for other in others:
        assert isinstance(other, SMoETokenizer) and len(other) == len(tokenizer)
        assert other(sentences)["input_ids"] == tokenizer(sentences)["input_ids"]


@pytest.mark.parametrize("name", FROM_DATA_FOLDER)
def test_a_damaged_file_is_named(folder: Path, tmp_path: Path, name: str) -> None:
    copied = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copied / name).write_bytes((copied / name).read_bytes()[:10])
    with pytest.raises(UserError, match=name) as refusal:
        AutoTokenizer.from_pretrained(copied)("a")
    assert "\n" not in str(refusal.value)
