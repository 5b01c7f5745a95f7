"""Which system is better, on systems of which it is known."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from sacrebleu.metrics import BLEU
from sacrebleu.significance import PairedTest

from smoe_mt.errors import UserError
from smoe_mt.evaluation import significance
from smoe_mt.evaluation.comparison_table import comparison_report
from smoe_mt.evaluation.metrics import METRICS, Corpus
from smoe_mt.evaluation.result import Evaluation
from smoe_mt.evaluation.scores import score
from smoe_mt.evaluation.significance import POOLED, Comparison, check_same_text, comparable, compare

WORDS = ["ba", "be", "bi", "bo", "bu", "da", "de", "di", "do", "du", "fa", "fe", "fi", "fo", "fu"]
CHOSEN = tuple(metric for metric in METRICS if metric.name in ("bleu", "chrf"))
RESAMPLES = 200


def sentences(seed: int, count: int = 40) -> tuple[str, ...]:
    rng = random.Random(seed)
    return tuple(" ".join(rng.choices(WORDS, k=12)) for _ in range(count))


def with_errors(lines: Sequence[str], share: float, seed: int) -> tuple[str, ...]:
    """Each word wrong with this probability."""
    rng = random.Random(seed)
    return tuple(" ".join("xx" if rng.random() < share else word for word in line.split()) for line in lines)


def system(name: str, **errors: float) -> Evaluation:
    """Errors by direction, its two languages written together."""
    corpora = []
    for place, (direction, share) in enumerate(errors.items()):
        references = sentences(place)
        hypotheses = with_errors(references, share, seed=hash_of(name, place))
        corpora.append(Corpus(f"{direction[:2]}-{direction[2:]}", references, hypotheses, references))
    scores = {corpus.direction: score(corpus, CHOSEN) for corpus in corpora}
    return Evaluation(name, tuple(corpora), scores, {}, {}, CHOSEN)


def hash_of(name: str, place: int) -> int:
    return sum(map(ord, name)) * 10 + place


def verdicts(comparisons: Sequence[Comparison], metric: str = "bleu") -> dict[str, str]:
    return {one.direction: one.verdict for one in comparisons if one.metric == metric}


def test_better_and_worse_are_found_where_they_are() -> None:
    first, second = system("a", aaen=0.4, enaa=0.1), system("b", aaen=0.1, enaa=0.4)
    found = compare([first, second], RESAMPLES)
    assert {one.metric for one in found} == {"bleu", "chrf"} and {one.system for one in found} == {"b"}
    assert verdicts(found) == {"aa-en": "better", "en-aa": "worse", POOLED: "no difference shown"}
    better = next(one for one in found if one.direction == "aa-en" and one.metric == "bleu")
    assert better.delta == pytest.approx(second.scores["aa-en"].values["bleu"] - first.scores["aa-en"].values["bleu"])


def test_no_difference_is_shown_where_there_is_none() -> None:
    """One has its errors in every other sentence, the other in those between."""
    references = sentences(7)
    wrong = with_errors(references, 0.5, seed=7)
    systems = []
    for name, first in (("a", 0), ("b", 1)):
        hypotheses = tuple((wrong if place % 2 == first else references)[place] for place in range(len(references)))
        corpus = Corpus("bb-en", references, hypotheses, references)
        systems.append(Evaluation(name, (corpus,), {"bb-en": score(corpus, CHOSEN)}, {}, {}, CHOSEN))
    (found,) = (one for one in compare(systems, RESAMPLES) if one.metric == "bleu")
    assert found.verdict == "no difference shown" and found.delta != 0


def test_p_is_sacrebleus() -> None:
    systems = [system("a", aaen=0.3), system("b", aaen=0.27)]
    own = next(one for one in compare(systems, RESAMPLES) if one.metric == "bleu")
    named = [(each.name, list(each.corpora[0].hypotheses)) for each in systems]
    references = [list(systems[0].corpora[0].references)]
    signatures, table = PairedTest(named, {"BLEU": BLEU()}, references, test_type="bs", n_samples=RESAMPLES)()
    assert own.p_value == table["BLEU"][1].p_value  # type: ignore[union-attr]
    assert own.signature == str(signatures["BLEU"]) and f"bs:{RESAMPLES}" in own.signature


def test_a_system_is_equal_to_itself() -> None:
    twin = system("a", aaen=0.3, enaa=0.2)
    found = compare([twin, Evaluation("b", twin.corpora, twin.scores, {}, {}, CHOSEN)], RESAMPLES)
    assert set(verdicts(found).values()) == {"equal"} and {one.p_value for one in found} == {None}


def test_several_systems_stand_against_the_first() -> None:
    found = compare([system("a", aaen=0.3), system("b", aaen=0.05), system("c", aaen=0.6)], RESAMPLES)
    assert [(one.system, one.verdict) for one in found if one.metric == "chrf"] == [("b", "better"), ("c", "worse")]
    assert {one.direction for one in found} == {"aa-en"}, "one direction is all sentences"


def test_of_many_sentences_some_are_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(significance, "MOST_SENTENCES", 30)
    systems = [system("a", aaen=0.3, enaa=0.3), system("b", aaen=0.05, enaa=0.05)]
    pooled = next(one for one in compare(systems, RESAMPLES) if one.direction == POOLED)
    assert (pooled.sentences, pooled.tested, pooled.verdict) == (80, 27, "better")
    assert "tested on 27 of 80" in comparison_report([pooled], "a", RESAMPLES)


def test_the_report_says_which_is_better_and_where() -> None:
    found = compare([system("a", aaen=0.4, enaa=0.1), system("b", aaen=0.1, enaa=0.1)], RESAMPLES)
    report = comparison_report(found, "a", RESAMPLES)
    sentence = next(line for line in report.splitlines() if line.startswith("BLEU: "))
    assert "b is better than a at p < 0.05 on all sentences (+" in sentence
    assert "better in 1 of 2 (aa-en); no difference shown in 1 of 2 (en-aa)" in sentence
    row = next(line for line in report.splitlines() if line.startswith("aa-en")).split()
    assert row[2].startswith("+") and row[3] == "0.005" and row[4] == "better"


def test_other_text_is_refused() -> None:
    one, other = system("a", aaen=0.3, enaa=0.3), system("b", aaen=0.3)
    with pytest.raises(UserError, match="only one of them has en-aa"):
        compare([one, other])
    changed = Corpus("aa-en", other.corpora[0].sources, (), ("x", *other.corpora[0].references[1:]))
    with pytest.raises(UserError, match="different sentences for aa-en"):
        check_same_text(other.corpora, [changed], ("a", "b"))


def test_something_to_compare_by() -> None:
    copied = [metric for metric in METRICS if metric.name == "copied"]
    assert comparable([*copied, *CHOSEN]) == list(CHOSEN)
    with pytest.raises(UserError, match="--metrics bleu chrf"):
        comparable(copied)
