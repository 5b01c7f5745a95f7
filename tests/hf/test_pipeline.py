"""The pipeline "translation"."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("transformers", minversion="5")

import transformers

import smoe_mt.hf  # noqa: F401
from smoe_mt import Translator


def test_translates_one_text_and_several_in_batches(folder: Path, ours: Translator, sentences: list[str]) -> None:
    translate = transformers.pipeline("translation", model=str(folder), src_lang="aa", tgt_lang="en", device="cpu")
    expected = ours.translate(sentences, "aa", "en")
    assert translate(sentences[0]) == [{"translation_text": expected[0]}]
    found = translate(sentences, batch_size=4)
    assert [
        one[0]["translation_text"] if isinstance(one, list) else one["translation_text"] for one in found
    ] == expected


def test_a_call_may_name_other_languages_and_options(folder: Path, ours: Translator, sentences: list[str]) -> None:
    translate = transformers.pipeline("translation", model=str(folder), device="cpu")
    found = translate(sentences[0], src_lang="en", tgt_lang="bb", num_beams=2, num_return_sequences=2)
    assert found[0]["translation_text"] == ours.translate(sentences[:1], "en", "bb", beam=2)[0]
    assert len(found) == 2
