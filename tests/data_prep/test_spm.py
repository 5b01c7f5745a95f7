"""The sample, and the model that is learnt from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import sentencepiece

from data_prep.files import read_lines
from data_prep.rows import Row, write_rows
from data_prep.spm import LowestHashes, SpmOptions, balanced_sample, size_for, train_spm
from smoe_mt.errors import UserError
from tests.data_prep.toy import toy_lines

LINES = toy_lines(200)
TEXTS = {"xaa": [one for one, _ in LINES], "en": [other for _, other in LINES]}


def sample_of(texts: Mapping[str, Sequence[str]], folder: Path, workers: int = 1) -> Path:
    """The balanced sample of some sentences by language."""
    files = []
    for language, sentences in texts.items():
        path = folder / f"{language}.tsv"
        write_rows(path, (Row("t", sentence, "x") for sentence in sentences))
        files.append((language, [(path, 1)]))
    balanced_sample(files, folder, SpmOptions(), workers)
    return folder / "sample"


def test_the_same_text_gives_the_same_model(tmp_path: Path) -> None:
    sample = sample_of(TEXTS, tmp_path)
    assert train_spm(sample, 300, SpmOptions()) == train_spm(sample, 300, SpmOptions())


def test_vocabulary_shrinks_with_a_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = train_spm(sample_of(TEXTS, tmp_path), 8000, SpmOptions())
    size = sentencepiece.SentencePieceProcessor(model_proto=model).get_piece_size()
    assert 260 <= size < 8000
    assert str(size) in capsys.readouterr().err


def test_too_small_a_vocabulary_is_refused() -> None:
    with pytest.raises(UserError, match="--vocab-size 100"):
        size_for(1000, SpmOptions(100))


def test_small_text_gets_fewer_pieces_unless_they_are_insisted_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert size_for(1_000_000, SpmOptions(32_000, exact=False)) == 4_000
    assert "4,000" in capsys.readouterr().err
    assert size_for(1_000_000, SpmOptions(32_000, exact=True)) == 32_000
    assert size_for(9_000_000, SpmOptions(32_000, exact=False)) == 32_000


@pytest.mark.parametrize("workers", [1, 2])
def test_sample_is_balanced_and_does_not_depend_on_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr("data_prep.spm.SAMPLE_CHARACTERS", 2000)
    monkeypatch.setattr("data_prep.spm.CHARACTERS_A_PIECE", 0)
    texts = {"big": [f"sentence {number}" for number in range(5000)], "small": ["tiny text"] * 9 + ["other text"]}
    samples = []
    for name, text in (("one", texts), ("two", {name: lines[::-1] for name, lines in reversed(texts.items())})):
        (tmp_path / name).mkdir()
        samples.append(list(read_lines(sample_of(text, tmp_path / name, workers))))
    assert {"tiny text", "other text"} <= set(samples[0])
    assert len("".join(samples[0])) < 2100
    assert samples[0] == samples[1]


def test_the_size_of_what_was_not_kept_is_estimated() -> None:
    lowest = LowestHashes(0, 20_000)
    for number in range(50_000):
        lowest.add(f"{number % 25_000:08d}")
    lowest.prune()
    assert len(lowest.sentences) == 2500
    assert lowest.estimated_characters == pytest.approx(200_000, rel=0.1)
