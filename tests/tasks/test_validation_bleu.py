from __future__ import annotations

import pytest
import sacrebleu
import torch
from fairseq.logging import metrics

from smoe_mt.tasks.validation_bleu import DirectionBleu

REFERENCES = ["the cat sat on the mat .", "a dog ran far away today", "it rains in the north of here", "one two three"]
OUTPUTS = ["the cat sat on a mat .", "a dog ran far away", "rain in the north of here", "one two three"]


def logged(bleu: DirectionBleu, batches: list[torch.Tensor]) -> dict[str, float]:
    with metrics.aggregate(new_root=True) as log:
        for batch in batches:
            bleu.log([batch])
    return dict(log.get_smoothed_values())


def test_sums_over_batches_to_what_sacrebleu_says_of_the_whole() -> None:
    bleu = DirectionBleu(("aa-en", "bb-en"), "13a")
    batches = [
        bleu.statistics([1, 0, 1], OUTPUTS[:3], REFERENCES[:3]),
        bleu.statistics([0], OUTPUTS[3:], REFERENCES[3:]),
    ]
    of_aa = sacrebleu.corpus_bleu([OUTPUTS[1], OUTPUTS[3]], [[REFERENCES[1], REFERENCES[3]]]).score
    of_bb = sacrebleu.corpus_bleu([OUTPUTS[0], OUTPUTS[2]], [[REFERENCES[0], REFERENCES[2]]]).score
    stats = logged(bleu, batches)
    assert stats["bleu/aa-en"] == pytest.approx(of_aa, abs=0.01)
    assert stats["bleu/bb-en"] == pytest.approx(of_bb, abs=0.01)
    assert stats["bleu"] == pytest.approx((of_aa + of_bb) / 2, abs=0.01)


def test_a_direction_that_was_not_translated_has_no_score() -> None:
    bleu = DirectionBleu(("aa-en", "bb-en"), "13a")
    stats = logged(bleu, [bleu.statistics([0], OUTPUTS[:1], REFERENCES[:1]), bleu.statistics([], [], [])])
    assert stats["bleu"] == stats["bleu/aa-en"] > 0
    assert "bleu/bb-en" not in stats


def test_a_validation_without_translations_still_has_a_mean() -> None:
    bleu = DirectionBleu(("aa-en",), "13a")
    assert logged(bleu, [bleu.statistics([], [], [])]) == {"bleu": 0.0}


def test_the_tokenizer_is_the_one_asked_for() -> None:
    characters = DirectionBleu(("aa-en",), "char")
    expected = sacrebleu.corpus_bleu(OUTPUTS, [REFERENCES], tokenize="char").score
    stats = logged(characters, [characters.statistics([0] * 4, OUTPUTS, REFERENCES)])
    assert stats["bleu"] == pytest.approx(expected, abs=0.01)
