"""What the vocabulary cannot write is measured, by language."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_prep.spelling import Spelling, measure, measure_held_out, warn
from data_prep.spm import SpmOptions, train_spm

PERSIAN = ["می\u200cروم خانه", "کتاب\u200cها آب", "نمی\u200cدانم دوست", "نان باغ آب"]


def trained(folder: Path, normalisation: str) -> bytes:
    (folder / "sample").write_text("".join(f"{line}\n" for line in PERSIAN * 20), encoding="utf-8")
    return train_spm(folder / "sample", 290, SpmOptions(290, normalisation))


def test_nmt_nfkc_loses_joiners(tmp_path: Path) -> None:
    found = measure(trained(tmp_path, "nmt_nfkc"), PERSIAN)
    assert (found.sentences, found.changed) == (4, 3)
    assert found.lost[0] == ("U+200C ZERO WIDTH NON-JOINER", 3)


def test_default_vocabulary_writes_all_text(tmp_path: Path) -> None:
    text = [*PERSIAN, "未見過的字：，！", "น้ำทำ", "🙂 ﬁ ²"]
    assert measure(trained(tmp_path, SpmOptions.normalisation), text) == Spelling(len(text), 0, [])


def test_held_out_text_is_measured_by_language_and_training_text_is_not(tmp_path: Path) -> None:
    for split, rows in {"train": ["s\tنان\tbread"], "test": [f"s\t{line}\tword" for line in PERSIAN]}.items():
        (tmp_path / f"{split}.fa-en.tsv").write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    found = measure_held_out(trained(tmp_path, "nmt_nfkc"), tmp_path)
    assert {language: (one["sentences"], one["changed"]) for language, one in found.items()} == {
        "en": (4, 0),
        "fa": (4, 3),
    }


def test_warning_names_language_share_characters_and_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    lossy = {"sentences": 100, "changed": 51, "lost": [["U+200C ZERO WIDTH NON-JOINER", 60]]}
    warn({"fa": lossy, "sv": {"sentences": 100, "changed": 1, "lost": []}}, "nmt_nfkc")
    (line,) = capsys.readouterr().err.splitlines()
    assert "fa:" in line and "51%" in line and "ZERO WIDTH NON-JOINER" in line and "--normalisation identity" in line
