"""Metrics against sacreBLEU itself, or against numbers worked out by hand."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import sacrebleu
import sentencepiece
from sacrebleu.tokenizers import tokenizer_spm

from smoe_mt.errors import UserError
from smoe_mt.evaluation.metrics import DEFAULT_METRICS, METRICS, Corpus, Score
from smoe_mt.evaluation.metrics.off_target import labels
from smoe_mt.evaluation.selection import choose_metrics
from smoe_mt.tasks.pieces import FolderPieces

SOURCES = ("Le gae?", "Ke a leboga.", "Thabo")
HYPOTHESES = ("How are you all?", "Thank you very much.", "Thabo")
REFERENCES = ("How are you?", "I thank you very much.", "Happiness")
CORPUS = Corpus("nso-en", SOURCES, HYPOTHESES, REFERENCES)


def value(name: str, corpus: Corpus = CORPUS) -> float:
    found = computed(name, corpus)
    assert found is not None
    return found.value


def computed(name: str, corpus: Corpus) -> Score | None:
    return next(metric for metric in METRICS if metric.name == name).compute(corpus)


@pytest.fixture(scope="module")
def spm() -> bytes:
    """A tiny SentencePiece model."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*SOURCES, *HYPOTHESES, *REFERENCES]),
        model_writer=model,
        vocab_size=60,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return model.getvalue()


def test_bleu_is_sacrebleus() -> None:
    assert value("bleu") == pytest.approx(sacrebleu.corpus_bleu(HYPOTHESES, [REFERENCES]).score)


def test_chrf_is_sacrebleus_chrf_plus_plus() -> None:
    assert value("chrf") == pytest.approx(sacrebleu.corpus_chrf(HYPOTHESES, [REFERENCES], word_order=2).score)
    assert value("chrf") != pytest.approx(sacrebleu.corpus_chrf(HYPOTHESES, [REFERENCES]).score)


def test_signatures_say_how() -> None:
    found = {metric.name: metric.compute(CORPUS) for metric in DEFAULT_METRICS}
    signatures = {name: score.signature for name, score in found.items() if score}
    assert "tok:13a" in str(signatures["bleu"]) and "version:" in str(signatures["bleu"])
    assert "nw:2" in str(signatures["chrf"])
    assert signatures["length_ratio"] is None


def test_length_ratio_counts_characters() -> None:
    assert value("length_ratio", Corpus("a-b", ("x", "y"), ("abc", ""), ("ab", "cdef"))) == pytest.approx(3 / 6)


def test_copied_is_the_share_of_unchanged_sources() -> None:
    assert value("copied") == pytest.approx(1 / 3)


def test_metric_names_differ() -> None:
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)


def test_target_language() -> None:
    assert CORPUS.target_language == "en"


def over_pieces(spm: bytes) -> float:
    """BLEU over pieces, worked out without the metric."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=spm)
    outputs, wanted = ([" ".join(processor.encode(line, out_type=str)) for line in x] for x in (HYPOTHESES, REFERENCES))
    return float(sacrebleu.corpus_bleu(outputs, [wanted], tokenize="none", force=True).score)


def test_piece_bleu_is_bleu_over_the_models_pieces(spm: bytes) -> None:
    pieces = FolderPieces(sentencepiece.SentencePieceProcessor(model_proto=spm))
    score = computed("piece_bleu", Corpus("nso-en", SOURCES, HYPOTHESES, REFERENCES, pieces))
    assert score is not None and score.value == pytest.approx(over_pieces(spm))
    assert score.value != pytest.approx(value("bleu"))
    assert "tok:none" in str(score.signature) and "|pieces:" in str(score.signature)


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """sacreBLEU's folder of models; a download is an error."""

    def download(*_: Any) -> None:
        raise AssertionError("a download")

    monkeypatch.setattr(tokenizer_spm, "SACREBLEU_DIR", str(tmp_path))
    monkeypatch.setattr(tokenizer_spm, "download_file", download)
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


def test_spbleu_uses_the_model_on_the_disk(spm: bytes, models: Path) -> None:
    (models / "flores200sacrebleuspm").write_bytes(spm)
    assert [metric.name for metric in choose_metrics(["spbleu"])[0]] == ["spbleu"]
    score = computed("spbleu", CORPUS)
    assert score is not None and score.value == pytest.approx(over_pieces(spm))
    assert "tok:flores200" in str(score.signature)


@pytest.mark.parametrize(("content", "message"), [(None, "is not there"), (b"no model", "not a SentencePiece model")])
def test_spbleu_without_a_model_is_no_download(models: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (models / "flores200sacrebleuspm").write_bytes(content)
    with pytest.raises(UserError, match=message):
        choose_metrics(["bleu", "spbleu"])


def test_all_metrics_are_those_that_can_be_computed(models: Path) -> None:
    chosen, left_out = choose_metrics(["all"])
    assert {metric.name for metric in chosen} == {metric.name for metric in METRICS} - {"spbleu", "comet"}
    assert list(left_out) == ["spbleu", "comet"] and "is not there" in left_out["spbleu"]


def test_metrics_by_name() -> None:
    assert [metric.name for metric in choose_metrics(["copied,chrf", "bleu"])[0]] == ["bleu", "chrf", "copied"]
    assert choose_metrics([]) == (DEFAULT_METRICS, {})
    with pytest.raises(UserError, match="unknown metric 'ter': there are bleu, chrf, spbleu, "):
        choose_metrics(["bleu", "ter"])


GERMAN = ("Wo ist der Bahnhof, bitte?", "Die Kinder spielen heute im Garten.", "Ich habe das Buch gelesen.", "")


def test_off_target_is_the_share_in_another_language() -> None:
    pytest.importorskip("py3langid", reason="the extra 'langid' is not installed")
    english = ("Where is the station, please?", "The children play in the garden today.", "I have read the book.", "")
    score = computed("off_target", Corpus("de-en", GERMAN, (english[0], GERMAN[1], english[2], ""), english))
    assert score is not None and score.value == pytest.approx(1 / 3)
    assert "label:en|references:0.000" in str(score.signature)


def test_off_target_knows_languages_by_their_codes_here() -> None:
    pytest.importorskip("py3langid", reason="the extra 'langid' is not installed")
    assert labels("nob") == labels("nb") == {"no"}
    assert labels("msa") == {"ms"} and labels("en") == {"en"} and labels("nso") == {"nso"}
    assert labels("fur") == frozenset()
    assert computed("off_target", Corpus("en-fur", GERMAN, GERMAN, GERMAN)) is None


def test_bleu_of_a_perfect_translation_without_spaces_is_100() -> None:
    lines = ("我们市场，老师！", "朋友：音乐我们，市场朋友", "บ้าน")
    assert computed("bleu", Corpus("en-zh", SOURCES, lines, lines)).value == pytest.approx(100)
    assert "tok:zh" in str(computed("bleu", Corpus("en-zh", SOURCES, lines, lines)).signature)
    assert "tok:13a" in str(computed("bleu", Corpus("en-zh", SOURCES, lines, lines, tokenize="13a")).signature)


def test_pooled_bleu_takes_the_tokenizer_of_each_language() -> None:
    lines = ("我们市场老师", "朋友音乐我们市场")
    chinese = Corpus("en-zh", lines, lines, lines)
    latin = Corpus("en-sv", ("a b c d e",), ("a b c d e",), ("a b c d e",))
    pooling = METRICS[0].pooled([chinese, latin])
    seen = [line for corpus in (chinese, latin) for line in pooling.prepare(corpus, corpus.references)]
    assert seen == ["我 们 市 场 老 师", "朋 友 音 乐 我 们 市 场", "a b c d e"]
    assert pooling.scorer.corpus_score(seen, [seen]).score == pytest.approx(100)
    assert pooling.suffix == "|tokenized:13a+zh"
