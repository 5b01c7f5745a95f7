"""What a search is reckoned to take."""

from __future__ import annotations

from smoe_mt.generation import Decoding, Translator
from smoe_mt.generation.memory import bytes_to_search
from tests.conftest import TrainedRun


def test_the_greediest_batch_counts(trained_run: TrainedRun) -> None:
    model = Translator.from_pretrained(trained_run.folder, device="cpu").loaded.model
    weights = 4 * sum(parameter.numel() for parameter in model.parameters())
    nothing, small, large = (bytes_to_search(model, b, Decoding()) for b in ([], [(2, 9)], [(2, 9), (20, 9), (1, 30)]))
    assert nothing == weights
    assert large - weights == 10 * (small - weights), "ten times the sentences"
    logits = 4 * 20 * 5 * len(model.decoder.dictionary)
    assert large - weights > 3 * logits
    assert bytes_to_search(model, [(20, 9)], Decoding(beam=10)) - weights == 2 * (large - weights)
