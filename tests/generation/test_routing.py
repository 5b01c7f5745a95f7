"""Another routing of a trained model: which gates take it, and what it changes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from smoe_mt import cli
from smoe_mt.errors import UserError
from smoe_mt.generation import Decoding, LoadedModel, RoutingOptions, Translator
from smoe_mt.generation.routing import check_rank, check_routing, rerouting, weakened
from smoe_mt.models import SMoETransformerModel
from tests.conftest import TrainedRun

MakeModel = Callable[..., SMoETransformerModel]


def loaded(model: SMoETransformerModel, system: str) -> LoadedModel:
    config = SimpleNamespace(model=SimpleNamespace(moe=system))
    return LoadedModel(model.eval(), None, cast(Any, config), Path("run.pt"), 1)


@pytest.fixture
def of_system(make_model: MakeModel) -> Callable[..., LoadedModel]:
    def make(system: str, **settings: Any) -> LoadedModel:
        return loaded(make_model(moe=system, **settings), system)

    return make


def output(one: LoadedModel, **options: Any) -> torch.Tensor:
    tokens = torch.randint(4, 24, (3, 7), generator=torch.Generator().manual_seed(0))
    lengths = torch.full((3,), 7)
    with torch.no_grad(), rerouting(one, RoutingOptions(**options)).opened():
        found: torch.Tensor = one.model(tokens, lengths, tokens)[0]
    return found


SYSTEMS_WITH_TOP_K = ["vanilla", "switch", "cmr", "stacking", "stratified", "eom", "mpoe"]


@pytest.mark.parametrize("system", SYSTEMS_WITH_TOP_K)
def test_as_many_experts_as_in_training_change_nothing(of_system: Callable[..., LoadedModel], system: str) -> None:
    one = of_system(system)
    k = 1 if system == "switch" else 2
    assert output(one, test_top_k=k).equal(output(one))
    assert not output(one, test_top_k=3 - k).equal(output(one))


def test_all_probability_is_all_experts(of_system: Callable[..., LoadedModel]) -> None:
    one = of_system("vanilla", num_experts=5)
    torch.testing.assert_close(output(one, test_top_p=1.0), output(one, test_top_k=5))
    assert not torch.allclose(output(one, test_top_p=0.5), output(one, test_top_p=1.0))


def test_the_threshold_of_the_training_changes_nothing(of_system: Callable[..., LoadedModel]) -> None:
    one = of_system("xmoe", xmoe_threshold=0.6)
    assert output(one, test_threshold=0.6).equal(output(one))
    assert not output(one, test_threshold=0.1).equal(output(one))


@pytest.mark.parametrize(
    ("system", "options", "message"),
    [
        (
            "vanilla",
            {"test_threshold": 0.5},
            "test_threshold needs gates that choose until probabilities sum to a threshold, and --moe",
        ),
        ("vanilla", {"test_top_k": 9}, "top_k=9 needs at least 9 experts to choose from, but"),
        ("stratified", {"test_top_k": 5}, "gate of stratum 2 sees 4"),
        (
            "vanilla",
            {"capacity": "bias=1"},
            "capacity needs strata, which a token may visit or skip, and --moe vanilla",
        ),
        ("stacking", {"capacity": "visits=1"}, "capacity needs strata"),
        ("none", {"capacity": "visits=1"}, "capacity needs strata"),
        (
            "stratified",
            {"capacity": "visits=3"},
            "capacity visits=3 changes nothing: .* 2 strata; give visits=1 or fewer",
        ),
        ("none", {"test_top_k": 1}, "test_top_k: a dense model has no gates"),
    ],
)
def test_a_routing_that_a_model_cannot_have_is_refused(
    of_system: Callable[..., LoadedModel], system: str, options: dict[str, Any], message: str
) -> None:
    for refuse in (rerouting, partial(check_routing, contrast_rank=None)):
        with pytest.raises(UserError, match=message) as caught:
            refuse(of_system(system), RoutingOptions(**options))
        assert str(caught.value).startswith("run.pt: ") and "\n" not in str(caught.value)


def test_a_mean_of_visits_is_checked_without_text_to_measure_it_on(of_system: Callable[..., LoadedModel]) -> None:
    check_routing(of_system("stratified"), RoutingOptions(capacity="mean=1.5"), contrast_rank=2)


def test_the_dial_reaches_every_block(of_system: Callable[..., LoadedModel]) -> None:
    one = of_system("stratified", strata="2,2,2", encoder_layers=4, decoder_layers=4)
    tokens = torch.randint(4, 24, (3, 7))
    for capacity, expected in (("bias=20", 3), ("bias=-20", 1), ("visits=1", 1)):
        with torch.no_grad(), rerouting(one, RoutingOptions(capacity=capacity)).opened():
            extra = one.model(tokens, torch.full((3,), 7), tokens)[1]
        routings = [*extra["encoder_routing"], *extra["decoder_routing"]]
        assert len(routings) == 4 and all((routing.visits == expected).all() for routing in routings)


def test_a_gate_balanced_by_a_bias_is_dialled_too_and_refuses_what_it_cannot_take(
    of_system: Callable[..., LoadedModel],
) -> None:
    one = of_system("stratified", strata="2,2", balance_bias=0.001)
    assert not output(one, capacity="bias=20").equal(output(one))
    assert output(one, test_top_k=2).equal(output(one))


def test_blocks_of_different_strata_have_each_their_own_dial(of_system: Callable[..., LoadedModel]) -> None:
    one = of_system("stratified", strata="2,2,2;4")
    tokens = torch.randint(4, 24, (3, 7))
    with torch.no_grad(), rerouting(one, RoutingOptions(capacity="bias=20")).opened():
        extra = one.model(tokens, torch.full((3,), 7), tokens)[1]
    assert (extra["encoder_routing"][0].visits == 3).all() and (extra["decoder_routing"][0].visits == 1).all()


def test_the_weak_pass_has_weight_1_even_of_a_gate_with_one_choice(of_system: Callable[..., LoadedModel]) -> None:
    """Switch weighs its expert by its probability; rank 1 of the weak pass does not."""
    block: Any = of_system("switch").model.encoder.layers[1].block.moe
    x = torch.randn(5, 16)
    probs = block.gate(x).max(dim=1).values
    own = block(x)[0]
    with weakened(block, 1):
        torch.testing.assert_close(block(x)[0] * probs[:, None], own)


def test_a_rank_beyond_a_gates_experts_is_refused(of_system: Callable[..., LoadedModel]) -> None:
    with pytest.raises(UserError, match="rank 3 needs at least 3 experts, but .*gate of stratum 2 sees 2"):
        check_rank(of_system("stratified", strata="3,2"), 3)
    with pytest.raises(UserError, match="contrast: a dense model has no gates"):
        check_rank(of_system("none"), 1)


@pytest.fixture(scope="module")
def lines(trained_run: TrainedRun) -> list[str]:
    return (trained_run.data / "text" / "test.aa-en.aa").read_text().splitlines()[:6]


@pytest.mark.parametrize("capacity", ["bias=0.8", "visits=1", "mean=1.5"])
def test_translation_under_the_dial_is_independent_of_batch_composition(
    trained_run: TrainedRun, lines: list[str], capacity: str
) -> None:
    translator = Translator.from_pretrained(trained_run.folder, device="cpu", routing=RoutingOptions(capacity=capacity))
    together = translator.translate(lines, "aa", "en")
    assert together == [translator.translate([line], "aa", "en")[0] for line in lines]
    assert translator.translate_in_detail(lines[:1], "aa", "en", routing=True)[0].candidates[0].source_visits
    assert len(translator.calibrations) == (capacity[:4] == "mean")


def test_visits_that_are_shown_are_those_of_the_routing_in_force(trained_run: TrainedRun, lines: list[str]) -> None:
    for capacity, expected in (("bias=20", 2), ("visits=1", 1)):
        translator = Translator.from_pretrained(
            trained_run.folder, device="cpu", routing=RoutingOptions(capacity=capacity)
        )
        best = translator.translate_in_detail(lines[:2], "aa", "en", routing=True)[0].candidates[0]
        assert best.source_visits is not None and best.target_visits is not None
        for visits in (best.source_visits, best.target_visits):
            assert {count for counts in visits.blocks.values() for count in counts} == {expected}


def test_contrast_in_processes_and_by_keyword(trained_run: TrainedRun, lines: list[str], monkeypatch: Any) -> None:
    monkeypatch.setattr("smoe_mt.generation.translator.SHORTEST_BATCH", 20)
    translator = Translator.from_pretrained(trained_run.folder, device="cpu")
    one = translator.translate(lines, "aa", "en", contrast=3.0)
    assert one == translator.translate(lines, "aa", "en", contrast=3.0, processes=2)
    decoding = Decoding(contrast=3.0)
    assert one == [found.text for found in translator.translate_in_detail(lines, "aa", "en", decoding)]
    assert one != translator.translate(lines, "aa", "en")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--contrast", "-1"], "argument --contrast: '-1' must be a number from 0 to 100"),
        (["--contrast", "nan"], "argument --contrast: 'nan' must be"),
        (["--contrast", "0.5", "--contrast-rank", "0"], "argument --contrast-rank: '0' must be"),
        (["--contrast", "0.5", "--contrast-rank", "3"], "rank 3 needs at least 3 experts"),
        (["--contrast", "0.5", "--contrast-alpha", "1.1"], "argument --contrast-alpha: '1.1' must be"),
        (["--contrast-rank", "2"], "--contrast-rank is of use with contrast alone"),
        (["--contrast-rank", "3"], "--contrast-rank is of use with contrast alone: set --contrast"),
        (["--contrast-encoder"], "--contrast-encoder is of use with contrast alone"),
        (["--test-top-k", "0"], "argument --test-top-k: '0' must be"),
        (["--test-top-k", "3"], "--test-top-k: top_k=3 needs at least 3 experts"),
        (["--test-top-p", "2"], "argument --test-top-p: '2' must be"),
        (
            ["--test-threshold", "0.5"],
            "--test-threshold needs gates that choose until probabilities sum to a threshold",
        ),
        (["--test-top-k", "1", "--test-top-p", "0.5"], "--test-top-k and --test-top-p both say"),
        (["--capacity", "much"], "--capacity is 'much': it must be bias=B"),
        (["--capacity", "visits=5"], "--capacity visits=5 changes nothing: its blocks have at most 2 strata"),
        (["--capacity", "mean=3"], "no bias gives a mean of 3 visits"),
    ],
)
def test_what_translate_refuses_in_one_line(
    trained_run: TrainedRun, capsys: pytest.CaptureFixture[str], tmp_path: Path, options: list[str], message: str
) -> None:
    text = tmp_path / "text"
    text.write_text("da\n")
    command = ["translate", "-m", str(trained_run.folder), "-s", "aa", "-t", "en", "--device", "cpu", str(text)]
    assert cli.main([*command, *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error
