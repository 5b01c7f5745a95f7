"""Published scores: the file, and how directions are found in it whatever their languages are called."""

from __future__ import annotations

from pathlib import Path

import pytest

from smoe_mt.errors import UserError
from smoe_mt.json_files import read_json_object
from smoe_mt.json_forms import fits
from smoe_mt.paper.benchmarks import BENCHMARKS
from smoe_mt.report import public_scores as module
from smoe_mt.report.public_scores import FILE, FORM, public_scores

TAGALOG = "tgl"


def test_every_direction_of_m15_has_both_models_in_both_metrics_or_a_reason() -> None:
    public = public_scores()
    for language in BENCHMARKS["m15"].languages:
        for direction in (f"{language}-en", f"en-{language}"):
            for metric in ("chrf", "bleu"):
                models = set(public.of(direction, metric))
                assert models == (set() if language == TAGALOG else set(public.models)), (direction, metric)
            assert bool(public.why_not(direction)) == (language == TAGALOG)


def test_every_score_says_where_it_was_read() -> None:
    content = read_json_object(FILE)
    assert fits(content, FORM)
    places = [(one["direction"], one["metric"], model) for one in content["scores"] for model in one["scores"]]
    assert len(set(places)) == len(places)
    for one in content["scores"]:
        assert one["file"] in content["files"] and one["metric"] in content["signatures"]
        assert sum(commit.startswith(one["commit"]) for commit in content["commits"]) == 1
        assert set(one["scores"]) <= set(content["models"])
        assert all(5 < score < 80 for score in one["scores"].values()), "from 0 to 100"


def test_chrf_and_bleu_of_a_direction_are_not_mixed_up() -> None:
    public = public_scores()
    for direction, scores in public.scores["chrf"].items():
        bleu = public.scores["bleu"][direction]
        assert all(score > bleu[model] + 10 for model, score in scores.items()), direction


@pytest.mark.parametrize(
    ("direction", "same"),
    [
        ("en-ca", "eng-cat"),
        ("ms-en", "msa-eng"),
        ("zsm_Latn-eng_Latn", "msa-eng"),
        ("en-no", "eng-nob"),
        ("nb-en", "nob-eng"),
        ("li-en_GB", "lim-eng"),
    ],
)
def test_a_language_is_found_under_its_other_codes(direction: str, same: str) -> None:
    public = public_scores()
    assert public.of(direction, "chrf") == public.scores["chrf"][same]


@pytest.mark.parametrize("direction", ["nso-cat", "nso-tgl", "de-en", "nso_Arab-en"])
def test_other_directions_have_none(direction: str) -> None:
    assert not public_scores().of(direction, "chrf")
    assert public_scores().why_not(direction) is None


def test_a_file_of_another_form_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scores.json").write_text("{}")
    monkeypatch.setattr(module, "FILE", tmp_path / "scores.json")
    with pytest.raises(UserError, match="install smoe_mt again"):
        public_scores.__wrapped__()
