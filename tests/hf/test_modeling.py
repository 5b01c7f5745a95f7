"""A model in transformers: our hypotheses, losses, and what it refuses."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("transformers", minversion="5")

from smoe_mt import Translator, cli
from smoe_mt.criterions.config import StratifiedRoutingConfig
from smoe_mt.errors import UserError
from smoe_mt.export import huggingface
from smoe_mt.export.folder import export
from smoe_mt.generation import Decoding
from smoe_mt.generation.checkpoint import load_model
from smoe_mt.hf import SMoEForConditionalGeneration
from smoe_mt.hf.state import CACHE
from tests.conftest import TrainedRun
from tests.moefication.conftest import save_model

Load = Callable[..., tuple[Any, Any]]


def inputs_of(tokenizer: Any, lines: list[str]) -> Any:
    return tokenizer(lines, return_tensors="pt", padding=True)


@pytest.fixture(scope="module")
def pair(folder: Path, loaded: Load) -> tuple[Any, Any]:
    return loaded(folder)


@pytest.mark.parametrize("options", [{}, {"use_cache": False}, {"num_beams": 1}, {"length_penalty": 0.6}])
def test_generates_our_hypotheses_with_their_scores(
    pair: tuple[Any, Any], ours: Translator, sentences: list[str], options: dict[str, Any]
) -> None:
    model, tokenizer = pair
    asked = {"output_scores": True, "return_dict_in_generate": True, **options}
    found = model.generate(**inputs_of(tokenizer, sentences), **asked)
    decoding = Decoding(options.get("num_beams", 5), options.get("length_penalty", 1.0))
    expected = ours.translate_in_detail(sentences, "aa", "en", decoding)
    assert tokenizer.batch_decode(found.sequences, skip_special_tokens=True) == [one.text for one in expected]
    if decoding.beam > 1:
        assert found.sequences_scores.tolist() == pytest.approx([one.score for one in expected], abs=1e-4)


def test_a_sentence_that_runs_on_ends_at_its_own_limit(
    pair: tuple[Any, Any], ours: Translator, sentences: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = pair
    lines, decoding = [sentences[0], " ".join(sentences[:6])], Decoding(5, max_len_a=0.3, max_len_b=0)
    monkeypatch.setattr("smoe_mt.hf.modeling.Decoding", lambda: decoding)
    found = tokenizer.batch_decode(model.generate(**inputs_of(tokenizer, lines)), skip_special_tokens=True)
    assert found == [one.text for one in ours.translate_in_detail(lines, "aa", "en", decoding)]


def test_several_candidates_of_each_sentence(pair: tuple[Any, Any], ours: Translator, sentences: list[str]) -> None:
    model, tokenizer = pair
    outputs = model.generate(**inputs_of(tokenizer, sentences[:3]), num_return_sequences=3)
    assert len(outputs) == 9
    texts = tokenizer.batch_decode(outputs, skip_special_tokens=True)
    assert texts[::3] == ours.translate(sentences[:3], "aa", "en")


def test_an_output_goes_on_from_how_it_begins(pair: tuple[Any, Any], ours: Translator, sentences: list[str]) -> None:
    model, tokenizer = pair
    begin = sentences[4].split()[0]
    start = [model.config.decoder_start_token_id, *tokenizer.codec.pieces(begin)]
    inputs = inputs_of(tokenizer, sentences[:3])
    found = model.generate(**inputs, decoder_input_ids=torch.tensor([start] * 3), num_beams=1)
    texts = tokenizer.batch_decode(found, skip_special_tokens=True)
    assert texts == ours.translate(sentences[:3], "aa", "en", prefix=begin, beam=1)


def test_padding_changes_nothing(pair: tuple[Any, Any], sentences: list[str]) -> None:
    model, tokenizer = pair
    alone, together = inputs_of(tokenizer, sentences[:1]), inputs_of(tokenizer, sentences)
    previous = torch.full((1, 1), model.config.decoder_start_token_id)
    with torch.no_grad():
        one = model(**alone, decoder_input_ids=previous).logits
        all_ = model(**together, decoder_input_ids=previous.expand(len(sentences), 1)).logits
    torch.testing.assert_close(all_[:1], one, atol=1e-5, rtol=1e-5)


def test_a_cache_gives_the_logits_of_a_whole_pass(pair: tuple[Any, Any], sentences: list[str]) -> None:
    model, tokenizer = pair
    inputs = inputs_of(tokenizer, sentences[:4])
    labels = inputs_of(tokenizer, sentences[4:8])["input_ids"]
    with torch.no_grad():
        whole = model(**inputs, decoder_input_ids=labels).logits
        first = model(**inputs, decoder_input_ids=labels[:, :2], use_cache=True)
        rest = model(**inputs, decoder_input_ids=labels[:, 2:], **{CACHE: first[CACHE]}).logits
    stepwise = torch.cat([first.logits, rest], dim=1)
    real = labels != model.config.pad_token_id
    torch.testing.assert_close(stepwise[real], whole[real], atol=1e-5, rtol=1e-5)


def test_the_loss_is_the_mean_over_labels(pair: tuple[Any, Any], sentences: list[str]) -> None:
    model, tokenizer = pair
    batch = tokenizer(sentences[:4], text_target=sentences[4:8], return_tensors="pt", padding=True)
    labels = batch["labels"].masked_fill(batch["labels"] == tokenizer.pad_token_id, -100)
    with torch.no_grad():
        output = model(batch["input_ids"], batch["attention_mask"], labels=labels)
    expected = F.cross_entropy(output.logits.flatten(0, 1), labels.flatten())
    assert output.loss.item() == pytest.approx(expected.item())
    assert model(batch["input_ids"], labels=labels, return_dict=False)[0].item() == pytest.approx(expected.item())


def test_training_adds_the_routing_losses_and_reaches_every_weight(
    folder: Path, loaded: Load, sentences: list[str]
) -> None:
    model, tokenizer = loaded(folder)
    batch = tokenizer(sentences, text_target=sentences, return_tensors="pt", padding=True)
    plain = model(**batch).loss
    trained = model.train()(**batch)
    balance = (trained.loss - F.cross_entropy(trained.logits.flatten(0, 1), batch["labels"].flatten())).item()
    assert plain.item() != trained.loss.item() and balance > 0.9 * StratifiedRoutingConfig().balance_weight
    trained.loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_saved_and_loaded_it_is_the_same(folder: Path, loaded: Load, tmp_path: Path, sentences: list[str]) -> None:
    model, tokenizer = loaded(folder)
    with torch.no_grad():
        model.encoder.embed_tokens.weight[10:] += 0.01  # as after training
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again, words = loaded(tmp_path)
    expected, state = model.state_dict(), again.state_dict()
    assert state.keys() == expected.keys() and all(torch.equal(state[name], expected[name]) for name in expected)
    assert again.get_input_embeddings().weight is again.get_output_embeddings().weight
    assert all(torch.equal(one, other) for one, other in zip(again.buffers(), model.buffers(), strict=True))
    texts = tokenizer.batch_decode(again.generate(**inputs_of(words, sentences)), skip_special_tokens=True)
    assert texts == Translator.from_pretrained(tmp_path, device="cpu").translate(sentences, "aa", "en")


def test_copied_and_pickled_it_is_the_same(pair: tuple[Any, Any], sentences: list[str]) -> None:
    model, tokenizer = pair
    inputs = inputs_of(tokenizer, sentences[:3])
    expected = model.generate(**inputs).tolist()
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other.generate(**inputs).tolist() == expected


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_in_half_precision_as_ours(
    trained_run: TrainedRun, tmp_path: Path, loaded: Load, sentences: list[str], dtype: str
) -> None:
    export(load_model(trained_run.folder, device="cpu"), tmp_path / "half", "half", None, dtype, huggingface.FORMAT)
    model, tokenizer = loaded(tmp_path / "half")
    ours = Translator.from_pretrained(tmp_path / "half", device="cpu", dtype=dtype).loaded
    assert model.dtype == next(ours.model.parameters()).dtype
    inputs = inputs_of(tokenizer, sentences[:3])
    previous = torch.full((3, 1), model.config.decoder_start_token_id)
    with torch.no_grad():
        found = model(**inputs, decoder_input_ids=previous).logits
        expected, _ = ours.model(inputs["input_ids"], None, previous)
    torch.testing.assert_close(found, expected, atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize(
    "settings",
    [
        {"moe": "none", "share_all_embeddings": False},
        {"moe": "vanilla", "num_experts": 3, "shared_experts": 1, "balance_bias": 0.01},
        {"moe": "xmoe", "num_experts": 4},
        {"moe": "stratified_hmoe", "strata": [2, 2]},
        {"moe": "stratified_dynmoe", "strata": [2, 2]},
        {"moe": "stratified_mhmoe", "strata": [2, 2], "mhmoe_heads": 2},
    ],
    ids=lambda settings: settings["moe"],
)
def test_models_of_other_systems(toy_text: Path, tmp_path: Path, loaded: Load, settings: dict[str, Any]) -> None:
    run = load_model(save_model(toy_text, tmp_path / "model.pt", **settings), device="cpu")
    export(run, tmp_path / "out", "toy", None, "fp32", huggingface.FORMAT)
    model, tokenizer = loaded(tmp_path / "out")
    lines = run.task.folder.references("test", "aa-en")
    inputs = inputs_of(tokenizer, lines)
    with torch.no_grad():
        expected, _ = run.model(inputs["input_ids"], None, inputs["input_ids"])
        found = model(**inputs, decoder_input_ids=inputs["input_ids"]).logits
    assert torch.equal(found, expected)
    texts = tokenizer.batch_decode(model.generate(**inputs), skip_special_tokens=True)
    assert texts == Translator(run).translate(lines, "aa", "en")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give labels or decoder_input_ids"),
        ({"decoder_input_ids": torch.tensor([[2]])}, "give input_ids"),
        ({"inputs_embeds": torch.zeros(1, 1, 32)}, "inputs_embeds: models of smoe_mt do not have it"),
        ({"output_attentions": True}, "output_attentions: models of smoe_mt do not have it"),
    ],
)
def test_arguments_that_it_does_not_take_are_named(
    pair: tuple[Any, Any], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        pair[0](**arguments)


def damage_config(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def damage(folder: Path) -> object:
        config = json.loads((folder / "config.json").read_text())
        change(config)
        return (folder / "config.json").write_text(json.dumps(config))

    return damage


def cut(folder: Path) -> object:
    content = (folder / "model.safetensors").read_bytes()
    return (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "model.safetensors is not the file that was exported"),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing"),
        (damage_config(lambda config: config.pop("smoe_mt")), "it has no settings of smoe_mt"),
        (damage_config(lambda config: config["smoe_mt"]["config"]["model"].update(moe="other")), "other"),
        (
            damage_config(lambda config: config["smoe_mt"]["config"]["model"].update(encoder_layers=-1)),
            "encoder_layers",
        ),
        (
            damage_config(lambda config: config["smoe_mt"]["config"]["model"].update(encoder_ffn_embed_dim=10**6)),
            "config.json describes a model of at least",
        ),
        (damage_config(lambda config: config.update(vocab_size=10**9)), "config.json describes a model of at least"),
    ],
)
def test_a_damaged_folder_is_told_in_one_line(
    folder: Path, tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    copied = Path(shutil.copytree(folder, tmp_path / "copy"))
    damage(copied)
    with pytest.raises(UserError, match=message) as refusal:
        SMoEForConditionalGeneration.from_pretrained(copied)
    assert "\n" not in str(refusal.value)


def test_a_file_without_checksums_that_lacks_a_weight_is_refused(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    copied = Path(shutil.copytree(folder, tmp_path / "copy"))
    weights = load_file(copied / "model.safetensors")
    del weights["encoder.layers.0.fc1.weight"]
    save_file(weights, copied / "model.safetensors", {"format": "pt"})
    damage_config(lambda config: config["smoe_mt"].pop("files"))(copied)
    with pytest.raises(UserError, match=r"missing keys in its weights, such as encoder.layers.0.fc1.weight"):
        SMoEForConditionalGeneration.from_pretrained(copied)


def test_smoe_mt_translates_with_the_folder(
    folder: Path, ours: Translator, sentences: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").write_text("\n".join(sentences) + "\n")
    command = ["translate", "-m", str(folder), "-s", "aa", "-t", "en", "--device", "cpu", str(tmp_path / "in")]
    assert cli.main(command) == 0
    assert capsys.readouterr().out.splitlines() == ours.translate(sentences, "aa", "en")
