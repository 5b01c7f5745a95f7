"""Counting visits and load."""

from __future__ import annotations

import pytest
import torch

from smoe_mt.analysis.entropy import GateEntropy
from smoe_mt.analysis.load import ExpertLoad, language_of
from smoe_mt.analysis.visits import VisitCounts
from smoe_mt.moe import GateLoad, Routing
from smoe_mt.moe.names import Block
from tests.analysis.fake import ALIKE, BLOCKS, VARIED, report, routing

ENCODER, DECODER = BLOCKS


def test_mean_leaves_padding_out() -> None:
    visits = report(VARIED, ALIKE).visits
    assert visits.mean(ENCODER, "nso-en") == pytest.approx((1 + 2 + 2 + 2) / 4)
    assert visits.tokens("encoder", "nso-en") == 4


def test_histogram_of_a_direction_and_of_all() -> None:
    visits = report(VARIED, ALIKE).visits
    assert visits.histogram(ENCODER, "en-nso") == pytest.approx([3 / 4, 1 / 4])
    assert visits.histogram(ENCODER) == pytest.approx([4 / 8, 4 / 8])


def test_passes_add_up() -> None:
    visits = VisitCounts((ENCODER,), strata=3)
    visits.add("nso-en", [routing([[1, 1, 0]])])
    visits.add("nso-en", [routing([[3, 1, 1]])])
    assert visits.histogram(ENCODER, "nso-en") == pytest.approx([4 / 5, 0, 1 / 5])


def test_side_mean_is_over_blocks() -> None:
    blocks = (Block("encoder", 2), Block("encoder", 4), Block("decoder", 2))
    visits = VisitCounts(blocks, strata=2)
    visits.add("nso-en", [routing([[1, 1]]), routing([[1, 2]]), routing([[2, 2]])])
    assert visits.side_mean("encoder", "nso-en") == pytest.approx(1.25)
    assert visits.side_mean("decoder", "nso-en") == 2


def test_collapse_is_the_same_visits_in_all_directions() -> None:
    assert report(VARIED, ALIKE).visits.collapsed() == (DECODER,)


def test_directions_that_differ_are_no_collapse() -> None:
    per_direction = {"nso-en": [[2, 2]], "en-nso": [[1, 1]]}
    assert report(per_direction, ALIKE).visits.collapsed() == (DECODER,)


def test_a_block_too_many_is_an_error() -> None:
    with pytest.raises(ValueError, match="zip"):
        VisitCounts(BLOCKS, strata=2).add("nso-en", [routing([[1]])])


def test_load_is_a_share_of_each_gates_slots() -> None:
    load = ExpertLoad({ENCODER: (1, 1)})
    load.add("nso-en", [routing([[1]], asked=([1, 3], [0]))])
    load.add("nso-en", [routing([[1]], asked=([4, 2], [0]))])
    assert load.shares("nso-en") == {"encoder.layers.1": [[0.5, 0.5], [0.0]]}


def two_languages() -> ExpertLoad:
    load = ExpertLoad({ENCODER: (1, 2)})
    load.add("nso-en", [routing([[1]], asked=([1, 3, 0], [2, 2]))])
    load.add("nso-msa", [routing([[1]], asked=([1, 1, 0], [0, 0]))])
    load.add("en-nso", [routing([[1]], asked=([0, 0, 4], [0, 0]))])
    return load


def test_load_by_language_is_over_gates_and_directions() -> None:
    shares = two_languages().by_language(ENCODER)
    assert {language: share.tolist() for language, share in shares.items()} == {
        "en": [0, 0, 1],
        "nso": pytest.approx([0.2, 0.6, 0.2]),
    }


def test_load_by_stratum_adds_its_experts_up() -> None:
    assert two_languages().by_stratum(ENCODER)["nso"].tolist() == pytest.approx([0.2, 0.8])


def test_overlap_is_the_share_of_slots_in_common() -> None:
    overlap = two_languages().overlap(ENCODER)
    assert torch.allclose(overlap, torch.tensor([[1, 0.2], [0.2, 1]]).double())


def test_the_decoder_reads_the_target_language() -> None:
    assert language_of("encoder", "nso-en") == "nso" and language_of("decoder", "nso-en") == "en"


def test_entropy_is_a_mean_over_tokens_not_passes() -> None:
    entropy = GateEntropy((ENCODER,))
    for tokens, value in ((3, 0.2), (1, 1.0)):
        gates = tuple(GateLoad(*(torch.tensor(t),) * 3) for t in ([tokens, 0], [0]))
        entropy.add(
            "nso-en", [Routing(torch.zeros(()), torch.ones(1, 1), gates, (torch.tensor(value), torch.zeros(())))]
        )
    assert entropy.means(ENCODER) == [pytest.approx(0.4), None]


def test_counts_stay_whole_numbers() -> None:
    assert report(VARIED, ALIKE).visits.total(ENCODER).dtype == torch.long
