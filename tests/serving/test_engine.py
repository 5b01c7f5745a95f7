"""Answers of a real tiny model."""

from __future__ import annotations

import argparse
from typing import Any

import pytest

from smoe_mt.errors import UserError
from smoe_mt.generation import Decoding, RoutingOptions, Translator
from smoe_mt.serving.arguments import add_arguments
from smoe_mt.serving.engine import Engine
from smoe_mt.serving.wire import Ask
from tests.conftest import TrainedRun


@pytest.fixture(scope="module")
def translator(trained_run: TrainedRun) -> Translator:
    return Translator.from_pretrained(trained_run.folder, device="cpu")


def engine_of(translator: Translator, *options: str) -> Engine:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return Engine(translator, parser.parse_args(["runs/toy", *options]))


@pytest.fixture(scope="module")
def engine(translator: Translator) -> Engine:
    return engine_of(translator)


@pytest.fixture(scope="module")
def lines(trained_run: TrainedRun) -> tuple[str, ...]:
    return tuple((trained_run.data / "text" / "test.aa-en.aa").read_text().splitlines()[:4])


def test_facts(engine: Engine) -> None:
    facts = engine.facts()
    assert facts.targets == {"aa": ("en", "bb"), "bb": ("en", "aa"), "en": ("aa", "bb")}
    assert facts.blocks == {"encoder.layers.1": (2, 2), "decoder.layers.1": (2, 2)}
    assert (facts.name, facts.strata, facts.dial, facts.beam) == ("run", 2, True, 5)


def test_asks_of_one_batch_get_what_each_gets_alone(
    engine: Engine, translator: Translator, lines: tuple[str, ...]
) -> None:
    asks = [Ask((*lines, " "), "aa", "en"), Ask(lines[:1], "aa", "en", nbest=3), Ask(lines, "en", "bb")]
    found = engine.translate(asks)
    assert [one.texts[0] for one in found[0]] == [*translator.translate(lines, "aa", "en"), ""]
    assert [one.texts[0] for one in found[2]] == translator.translate(lines, "en", "bb")
    best = translator.translate_in_detail(lines[:1], "aa", "en", nbest=3)[0].candidates
    assert found[1][0].texts == tuple(candidate.text for candidate in best)
    assert all(len(one.texts) == 1 and not one.segments for one in found[0])


def test_tokens_with_their_visits_and_experts(engine: Engine, translator: Translator, lines: tuple[str, ...]) -> None:
    ((answer,),) = engine.translate([Ask(lines[:1], "aa", "en", routing=True)])
    (segment,) = answer.segments
    (candidate,) = segment["candidates"]
    expected = translator.translate_in_detail(lines[:1], "aa", "en", routing=True)[0].candidates[0]
    assert segment["source"] == lines[0] and candidate["text"] == answer.texts[0] == expected.text
    for side, visits in (("source", expected.source_visits), ("target", expected.target_visits)):
        tokens: list[dict[str, Any]] = candidate[side]
        assert visits is not None
        assert [token["visits"] for token in tokens] == list(visits.means())
        assert all(len(way) == token["visits"] for token in tokens for way in token["experts"].values())
    assert "".join(token["text"] for token in candidate["target"][1:]).strip() == answer.texts[0]


def test_the_dial_changes_visits_of_its_ask_alone(engine: Engine, lines: tuple[str, ...]) -> None:
    def visits(capacity: str | None) -> set[float]:
        ((answer,),) = engine.translate([Ask(lines[:1], "aa", "en", routing=True, capacity=capacity)])
        return {token["visits"] for token in answer.segments[0]["candidates"][0]["source"]}

    before = visits(None)
    assert visits("visits=1") == {1.0}
    assert visits("bias=4") == {2.0}
    assert visits(None) == before


def test_the_dial_keeps_the_rest_of_the_servers_routing(translator: Translator, lines: tuple[str, ...]) -> None:
    routed = Translator(translator.loaded, routing=RoutingOptions(test_top_k=1))
    ((answer,),) = engine_of(routed).translate([Ask(lines[:1], "aa", "en", routing=True, capacity="bias=0.5")])
    tokens = answer.segments[0]["candidates"][0]["source"]
    assert {len(experts) for token in tokens for way in token["experts"].values() for experts in way} == {1}


def test_sentences_of_a_line_are_joined(translator: Translator, lines: tuple[str, ...]) -> None:
    pytest.importorskip("sentencex")
    engine = engine_of(translator, "--split-sentences", "--beam", "3")
    text = f"{lines[0].capitalize()}. {lines[1].capitalize()}."
    ((answer,),) = engine.translate([Ask((text,), "aa", "en", nbest=2)])
    parts = text.split(". ")
    expected = translator.translate_in_detail([parts[0] + ".", parts[1]], "aa", "en", Decoding(3), nbest=2)
    assert answer.texts == tuple(" ".join(one.candidates[place].text for one in expected) for place in (0, 1))


def test_settings_that_contradict_each_other(translator: Translator) -> None:
    with pytest.raises(UserError, match="contrast"):
        engine_of(translator, "--contrast-rank", "3")
