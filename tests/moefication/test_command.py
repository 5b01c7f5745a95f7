"""``smoe-mt checkpoint moefy``: what it writes is a checkpoint like any other, and what cannot be cut is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from smoe_mt import cli
from smoe_mt.analysis.cost import cost_of_model
from smoe_mt.checkpoints.inspection import inspect_checkpoint
from smoe_mt.checkpoints.reading import read_checkpoint
from smoe_mt.generation import Translator
from tests.moefication.conftest import save_model

FAST = ("--subset", "valid", "--sentences", "40", "--device", "cpu")


def moefy(*arguments: object) -> int:
    reading = () if "--merge" in arguments else FAST
    return cli.main(["checkpoint", "moefy", *map(str, arguments), *reading])


def test_sparsity_is_printed_by_layer_and_direction(dense: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert moefy(dense, "--measure", "--directions", "aa-en,en-aa") == 0
    out = capsys.readouterr().out
    assert "aa-en" in out and "decoder.layers.1" in out and "never" in out
    assert moefy(dense, "--measure", "--format", "json") == 0
    found = json.loads(capsys.readouterr().out)
    assert 0 < found["active"]["encoder.layers.0"]["all"] < 1
    assert set(found["active"]["encoder.layers.0"]["directions"]) == {"aa-en", "en-aa", "bb-en", "en-bb"}
    assert found["experts"] == {}


@pytest.mark.parametrize(("split", "select"), [("clusters", "mlp"), ("graph", "similarity"), ("random", "oracle")])
def test_a_cut_model_translates_and_is_merged_bit_for_bit(
    dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], split: str, select: str
) -> None:
    cut, back = tmp_path / "cut.pt", tmp_path / "back.pt"
    options = ("--units", 4, "--choose", 1, "--split", split, "--select", select, "--epochs", 2)
    assert moefy(dense, cut, *options, "--format", "json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["experts"]["decoder.layers.0"]["kept"] == pytest.approx(1)
    sentences = ["ba ba", "de do da", ""]
    want, got = (
        Translator.from_pretrained(path, device="cpu").translate(sentences, source="en", target="aa")
        for path in (dense, cut)
    )
    assert got == want  # all experts were chosen
    assert moefy(cut, back, "--merge") == 0
    original, merged = (read_checkpoint(path)["model"] for path in (dense, back))
    assert original.keys() == merged.keys() and all(original[name].equal(merged[name]) for name in original)


def test_a_cut_model_is_exported_inspected_and_costed(dense: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.pt"
    assert moefy(dense, cut, "--units", 4, "--choose", 0.5, "--epochs", 2) == 0
    assert cli.main(["export", str(cut), str(tmp_path / "out")]) == 0
    here, there = (Translator.from_pretrained(path, device="cpu") for path in (cut, tmp_path / "out"))
    assert here.translate(["ba de"], "en", "aa") == there.translate(["ba de"], "en", "aa")
    found = inspect_checkpoint(cut)
    assert (found["model"]["moe"], found["model"]["moefied_choose"]) == ("moefied", 0.5)
    model = here.loaded.model
    assert found["parameters"]["total"] == sum(p.numel() for p in {id(p): p for p in model.parameters()}.values())
    vocabulary = len(here.loaded.task.dictionary)
    cost, whole = (
        cost_of_model(Translator.from_pretrained(path, device="cpu").loaded.model, vocabulary) for path in (cut, dense)
    )
    assert whole.flops_per_token - cost.flops_per_token == 4 * (24 - 12) * 4 * 16  # 4 FFNs, half of 24 units, d 16
    assert cost.total_parameters - whole.total_parameters == 4 * (6 * 16 + 6 * 6)  # the selectors


def test_sides_of_different_sizes_get_different_numbers_of_experts(toy_text: Path, tmp_path: Path) -> None:
    path = save_model(toy_text, tmp_path / "dense.pt", decoder_ffn_embed_dim=32)
    assert moefy(path, tmp_path / "cut.pt", "--units", 8, "--choose", 1, "--select", "similarity") == 0
    assert inspect_checkpoint(tmp_path / "cut.pt")["model"]["num_experts"] == [3, 3, 4, 4]
    models = [Translator.from_pretrained(tmp_path / name, device="cpu") for name in ("dense.pt", "cut.pt")]
    assert len({tuple(model.translate(["ba de do"], "en", "aa")) for model in models}) == 1
    assert models[1].loaded.model.encoder.layers[0].block.moe.experts.w_in.shape == torch.Size([3, 8, 16])


@pytest.mark.parametrize(
    ("arguments", "settings", "words"),
    [
        ((), {}, "name the checkpoint to write"),
        (("--merge",), {}, "name the checkpoint to write after model.pt, such as OUT.pt"),
        (("cut.pt", "--measure"), {}, "--measure writes nothing: leave cut.pt or --measure out"),
        (("cut.bin",), {}, "ends with .pt"),
        (("model.pt",), {}, "it is the model that is read"),
        (("cut.pt", "--units", "7"), {}, "--units 7: it does not divide the 24 hidden units of encoder.layers.0"),
        (("cut.pt", "--choose", "0"), {}, "--choose"),
        (("cut.pt", "--merge"), {}, "its system is none"),
        (("cut.pt",), {"activation_fn": "gelu"}, "its activation is gelu"),
        (("--measure",), {"activation_fn": "gelu"}, "its activation is gelu"),
        (("cut.pt",), {"moe": "stratified", "strata": "2,2"}, "a model has blocks of one system"),
        (("cut.pt",), {"moe": "moefied", "num_experts": 4}, "cut already"),
        (("cut.pt", "--directions", "aa-bb"), {}, "unknown direction"),
        (("cut.pt", "--merge", "--choose", "0.2"), {}, "--merge neither cuts nor reads text: leave --choose out"),
        (("cut.pt", "--merge", "--subset", "valid"), {}, "leave --subset out"),
        (("--measure", "--units", "4", "--seed", "2"), {}, "--measure cuts nothing: leave --units, --seed out"),
    ],
)
def test_what_cannot_be_cut_is_refused_in_one_line(
    toy_text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    settings: dict[str, object],
    words: str,
) -> None:
    save_model(toy_text, tmp_path / "model.pt", **settings)
    monkeypatch.chdir(tmp_path)
    units = () if {"--merge", "--measure"} & {*arguments} else ("--units", 4)
    assert moefy("model.pt", *units, *arguments) == cli.EXIT_USER_ERROR
    (line,) = [one for one in capsys.readouterr().err.splitlines() if "sent/s" not in one and "FFN/s" not in one]
    assert words in line
    assert not (tmp_path / "cut.pt").exists()
