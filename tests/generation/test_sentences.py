"""Lines of several sentences."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smoe_mt import cli
from smoe_mt.errors import UserError
from smoe_mt.generation import Translator
from smoe_mt.generation.details import Candidate, Translation
from smoe_mt.generation.sentences import SplitText, _library, library_code, split
from smoe_mt.generation.texts import Text
from smoe_mt.text import normalise
from tests.conftest import TrainedRun

pytest.importorskip("sentencex", reason="the extra 'split' is not installed")


@pytest.fixture(scope="module")
def translator(trained_run: TrainedRun) -> Translator:
    return Translator.from_pretrained(trained_run.folder, device="cpu")


@pytest.fixture(scope="module")
def sentences(translator: Translator) -> list[str]:
    return translator.loaded.task.folder.references("test", "en-aa", side="source")[:6]


def test_a_line_is_cut_at_its_sentences_and_not_at_abbreviations() -> None:
    line = "  Dr. Smith went to the U.S. on Jan. 5.  He left! Why?"
    assert split(line, "en") == ["Dr. Smith went to the U.S. on Jan. 5.", "He left!", "Why?"]
    assert split("我喜欢猫。你呢？", "zh") == ["我喜欢猫。", "你呢？"]
    assert split("यह है। वह है।", "hin_Deva") == ["यह है।", "वह है।"]
    assert split("A\u3000B\u2028.", "en") == ["A B ."], "white space that the library cannot read"
    assert split(" \t", "en") == []


@given(st.text(st.sampled_from("aB .!?。\u2028\t\n“”()।")), st.sampled_from(["en", "ja", "xx"]))
def test_no_letter_of_a_line_is_lost(line: str, language: str) -> None:
    assert "".join("".join(split(line, language)).split()) == "".join(normalise(line).split())


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("de", "de"),
        ("deu_Latn", "de"),
        ("pt_BR", "pt"),
        ("msa", "ms"),
        ("eng_Latn", "en"),
        ("arb_Arab", "ar"),
        ("xx", "xx"),
    ],
)
def test_the_librarys_code_of_a_language(ours: str, theirs: str) -> None:
    assert library_code(ours) == theirs


@pytest.mark.parametrize(("target", "joined"), [("fi", " A. B.  "), ("zho_Hans", " A.B.  "), ("th", " A. B.  ")])
def test_translations_are_joined_as_the_target_language_writes_them(target: str, joined: str) -> None:
    text = SplitText.of(Text([" One. Two. Three.  ", "", "\t"], "en", target, ["p", "q", "r"]))
    assert text.sentences.lines == ["One.", "Two.", "Three."] and text.sentences.prefixes == ["p", "", ""]
    found = [Translation("", (Candidate(one, score),)) for one, score in (("A.", -1.0), ("", -2.0), ("B.", -4.0))]
    assert [(one.source, one.text, one.score) for one in text.joined(found)] == [
        (" One. Two. Three.  ", joined, -7.0),
        ("", "", 0.0),
        ("\t", "\t", 0.0),
    ]


def test_each_sentence_is_translated_as_by_itself(translator: Translator, sentences: list[str]) -> None:
    ended = [f"{sentence.capitalize()}." for sentence in sentences]
    lines = [" ".join(ended[:2]), "", f"  {ended[2]}", " ".join(ended[3:])]
    one, two, three, *rest = translator.translate(ended, "en", "aa")
    found = translator.translate(lines, "en", "aa", split_sentences=True)
    assert found == [f"{one} {two}", "", f"  {three}", " ".join(rest)]


def test_a_language_without_rules_is_said_once(translator: Translator) -> None:
    with pytest.warns(UserWarning, match="sentencex has no rules for bb"):
        translator.translate(["Ba. Be."], "bb", "en", split_sentences=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        translator.translate(["Ba. Be."], "bb", "en", split_sentences=True)


def test_as_many_lines_come_out_of_the_command_as_went_in(
    trained_run: TrainedRun, tmp_path: Path, sentences: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").write_text(f"{'. '.join(sentences[:3]).title()}.\n\n  {sentences[3]}\n")
    command = [
        "translate",
        "-m",
        str(trained_run.folder),
        "-s",
        "en",
        "-t",
        "aa",
        "--device",
        "cpu",
        str(tmp_path / "in"),
    ]
    assert cli.main([*command, "--split-sentences"]) == 0
    first, second, third = capsys.readouterr().out.splitlines()
    assert first and not second and third.startswith("  ")
    for option, message in ((("--nbest", "2"), "leave out nbest"), (("--routing",), "no routing of a whole line")):
        assert cli.main([*command, "--split-sentences", *option]) == 2
        assert message in capsys.readouterr().err


def test_a_missing_library_is_named_with_the_command_that_installs_it(
    translator: Translator, monkeypatch: pytest.MonkeyPatch
) -> None:
    _library.cache_clear()
    monkeypatch.setitem(sys.modules, "sentencex", None)
    with pytest.raises(UserError, match=r"needs sentencex: pip install 'smoe_mt\[split\]'"):
        translator.translate(["A."], "en", "aa", split_sentences=True)
