"""Checkpoints in other forms: what is converted computes the same, and is one that every verb reads."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq import checkpoint_utils
from torch import Tensor

from smoe_mt import cli, register
from smoe_mt.checkpoints.inspection import inspect_checkpoint
from smoe_mt.checkpoints.reading import open_checkpoint
from smoe_mt.checkpoints.upcycle import upcycle_from
from smoe_mt.errors import UserError
from smoe_mt.generation.checkpoint import load_model
from tests.conftest import TrainedRun, train
from tests.toy import make_toy_folder

SIZES = "--encoder-embed-dim 32 --decoder-embed-dim 32 --encoder-ffn-embed-dim 64 --decoder-ffn-embed-dim 64"
SIZES += " --encoder-layers 2 --decoder-layers 2 --encoder-attention-heads 4 --decoder-attention-heads 4"
PRE_NORM = "--encoder-normalize-before --decoder-normalize-before"
BILINGUAL = f"--task translation -s aa -t en {PRE_NORM}"
MULTILINGUAL = f"--task translation_multi_simple_epoch --lang-pairs aa-en,en-aa --encoder-langtok tgt {PRE_NORM}"


def train_with_fairseq(data: Path, folder: Path, options: str) -> Path:
    """Two updates of fairseq's own transformer, without the plugin."""
    command = [sys.executable, "-m", "fairseq_cli.train", str(data), *options.split(), *SIZES.split()]
    command += ["--arch", "transformer", "--share-all-embeddings", "--optimizer", "adam", "--lr", "0.01", "--cpu"]
    command += ["--max-tokens", "500", "--max-update", "2", "--num-workers", "0", "--save-dir", str(folder)]
    command += ["--max-source-positions", "64", "--max-target-positions", "64"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--disable-validation"], check=False, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return folder / "checkpoint_last.pt"


@pytest.fixture(scope="module")
def their_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As fairseq's tasks want it: a dictionary for each language, without our tags, which come last."""
    folder = make_toy_folder(tmp_path_factory.mktemp("theirs") / "data", sizes={"train": 60, "valid": 5, "test": 5})
    lines = (folder / "dict.txt").read_text(encoding="utf-8").splitlines()
    pieces = [line for line in lines if not line.startswith(("<2", "madeupword"))]
    for language in ("aa", "en"):
        (folder / f"dict.{language}.txt").write_text("".join(f"{line}\n" for line in pieces), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def our_data(their_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder of the same pieces in another order."""
    folder = Path(shutil.copytree(their_data, tmp_path_factory.mktemp("ours") / "data"))
    lines = (folder / "dict.txt").read_text(encoding="utf-8").splitlines()
    (folder / "dict.txt").write_text("".join(f"{line}\n" for line in reversed(lines)), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def their_translation(their_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_with_fairseq(their_data, tmp_path_factory.mktemp("translation") / "run", BILINGUAL)


@pytest.fixture(scope="module")
def their_multilingual(their_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_with_fairseq(their_data, tmp_path_factory.mktemp("multilingual") / "run", MULTILINGUAL)


def logits(model: torch.nn.Module, symbols: list[str], index: Mapping[str, int]) -> Tensor:
    """[T, V] of a sentence that is translated into itself."""
    tokens = torch.tensor([[index[symbol] for symbol in symbols]])
    start = torch.tensor([[index["</s>"], *(index[symbol] for symbol in symbols[:-1])]])
    with torch.no_grad():
        return model.eval()(tokens, torch.tensor([len(symbols)]), start)[0][0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["their_translation", "their_multilingual"])
def test_fairseqs_transformer_becomes_one_of_ours(
    name: str, our_data: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Logits are equal, token by token, though the dictionaries are in different orders; tags are language tokens."""
    theirs, out = request.getfixturevalue(name), tmp_path / "dense.pt"
    assert cli.main(["checkpoint", "convert", str(theirs), str(out), "--data", str(our_data)]) == 0
    register()
    state = checkpoint_utils.load_checkpoint_to_cpu.__wrapped__(
        str(theirs)
    )  # with the plugin, fairseq loads ours alone
    (original,), _, task = checkpoint_utils.load_model_ensemble_and_task([str(theirs)], state=state)
    converted = load_model(out, device="cpu")
    ours, dictionary = converted.task.dictionary.indices, task.source_dictionary
    sentence = [*dictionary.symbols[4:12], "</s>"]
    expected, got = logits(original, sentence, dictionary.indices), logits(converted.model, sentence, ours)
    common = [symbol for symbol in dictionary.symbols if symbol in ours]
    assert len(common) >= 40
    order = [[indices[symbol] for symbol in common] for indices in (dictionary.indices, ours)]
    torch.testing.assert_close(got[:, order[1]], expected[:, order[0]], rtol=1e-4, atol=1e-4)
    assert converted.updates == 2
    table = original.encoder.embed_tokens.weight
    for language in ("aa", "en"):
        row = converted.model.encoder.embed_tokens.weight[converted.task.tag(language)]
        token = f"__{language}__"
        torch.testing.assert_close(row, table[dictionary.index(token)] if token in dictionary else table.mean(0))


@pytest.mark.slow
def test_it_translates_and_a_training_goes_on_from_it(
    their_translation: Path, our_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "dense.pt"
    assert cli.main(["checkpoint", "convert", str(their_translation), str(out), "--data", str(our_data)]) == 0
    source = our_data / "text" / "test.aa-en.aa"
    assert (
        cli.main(["translate", "-m", str(out), "-s", "aa", "-t", "en", "--max-len-b", "3", "--beam", "1", str(source)])
        == 0
    )
    assert len(capsys.readouterr().out.splitlines()) >= 5
    train(our_data, tmp_path / "tuned", "--moe", "none", "--finetune-from-model", str(out), "--lr", "1e-12", updates=1)
    tuned, before = (open_checkpoint(path)["model"] for path in (tmp_path / "tuned" / "checkpoint_last.pt", out))
    for name, weight in before.items():
        torch.testing.assert_close(tuned[name], weight, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_experts_begin_as_fairseqs_ffn(their_translation: Path, our_data: Path, tmp_path: Path) -> None:
    options = ["--moe", "stratified", "--strata", "2,2", "--init-experts-from", str(their_translation), "--lr", "1e-12"]
    train(our_data, tmp_path / "run", *options, updates=1)
    dense = open_checkpoint(their_translation, foreign=True)["model"]
    started = load_model(tmp_path / "run", device="cpu")
    weights = started.model.state_dict()
    for expert in range(4):
        theirs = dense["encoder.layers.1.fc1.weight"]
        torch.testing.assert_close(weights["encoder.layers.1.block.experts.w_in"][expert], theirs, rtol=0, atol=1e-6)
    dictionary = (our_data / "dict.en.txt").read_text(encoding="utf-8").splitlines()
    piece = dictionary[7].split(" ")[0]
    row = started.task.dictionary.index(piece)
    torch.testing.assert_close(
        weights["encoder.embed_tokens.weight"][row], dense["encoder.embed_tokens.weight"][7 + 4], rtol=0, atol=1e-6
    )


def test_upcycling_from_another_vocabulary_is_refused(trained_run: TrainedRun, tmp_path: Path) -> None:
    """Of equal size, so that no shape would tell."""
    loaded = load_model(trained_run.folder, device="cpu")
    state = torch.load(trained_run.folder / "checkpoint_best.pt", weights_only=True)
    state["task_state"]["vocabulary"]["sha256"] = "0" * 64
    torch.save(state, tmp_path / "other.pt")
    with pytest.raises(UserError, match="another vocabulary"):
        upcycle_from(tmp_path / "other.pt", loaded.model, loaded.task.vocabulary, loaded.task.dictionary.symbols)


def test_a_post_norm_model_is_refused(
    their_data: Path, our_data: Path, their_translation: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = torch.load(their_translation, weights_only=True)
    state["cfg"]["model"].encoder_normalize_before = False
    torch.save(state, tmp_path / "post.pt")
    assert (
        cli.main(["checkpoint", "convert", str(tmp_path / "post.pt"), str(tmp_path / "x.pt"), "--data", str(our_data)])
        == 2
    )
    assert "a post-norm model" in capsys.readouterr().err
    state["cfg"]["model"].encoder_normalize_before = True
    state["cfg"]["model"].encoder_learned_pos = True
    torch.save(state, tmp_path / "learned.pt")
    assert (
        cli.main(
            ["checkpoint", "convert", str(tmp_path / "learned.pt"), str(tmp_path / "x.pt"), "--data", str(our_data)]
        )
        == 2
    )
    assert "encoder_learned_pos is True, which smoe_transformer does not know" in capsys.readouterr().err


def test_pieces_and_dictionaries_that_do_not_fit_are_told(
    their_translation: Path, our_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def convert(*options: str) -> str:
        assert cli.main(["checkpoint", "convert", str(their_translation), str(tmp_path / "x.pt"), *options]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    assert "say with --data" in convert()
    other = make_toy_folder(tmp_path / "other", words=30, seed=9)
    assert "its dictionary lacks" in convert("--data", str(other))
    short = tmp_path / "short.txt"
    short.write_text("a 1\nb 1\n")
    assert "6 entries with those of its languages" in convert("--data", str(our_data), "--dictionary", str(short))
    short.write_bytes(b"\x80\x04\x95 not a dictionary")
    assert "not a dictionary of fairseq's" in convert("--data", str(our_data), "--dictionary", str(short))
    assert not (tmp_path / "x.pt").exists()


def test_old_checkpoints_have_args_in_place_of_cfg(their_translation: Path, our_data: Path, tmp_path: Path) -> None:
    state = torch.load(their_translation, weights_only=True)
    config = state.pop("cfg")
    state["args"] = Namespace(**{**vars(config["model"]), "task": "translation", "data": config["task"]["data"]})
    del state["model"]["decoder.output_projection.weight"]
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for source, name in ((tmp_path / "old.pt", "a.pt"), (their_translation, "b.pt")):
        assert cli.main(["checkpoint", "convert", str(source), str(tmp_path / name), "--data", str(our_data)]) == 0
    old, new = (open_checkpoint(tmp_path / name)["model"] for name in ("a.pt", "b.pt"))
    assert all(torch.equal(old[name], new[name]) for name in new)


def as_released(state: dict[str, Tensor], experts: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Our stratified model under the released code's names: what all ranks share, and the experts numbered over all."""
    shared, mine = {}, {}
    for name, tensor in state.items():
        layer, block, inside = name.partition(".block.")
        kind, *rest = inside.split(".")
        if not block:
            shared[name] = tensor.clone()
        elif kind == "experts":
            theirs = {"w_in": "fc1.weight", "b_in": "fc1.bias", "w_out": "fc2.weight", "b_out": "fc2.bias"}[rest[0]]
            mine |= {f"{layer}.moe_layer.experts.{e}.{theirs}": tensor[e].clone() for e in range(experts)}
        elif kind == "gates":
            shared[f"{layer}.moe_layer.gate.{rest[0]}.wg.weight"] = tensor.clone()
        else:
            norm = "final_layer_norm" if rest[0] == "0" else f"hmoe_layernorms.{int(rest[0]) - 1}"
            shared[f"{layer}.{norm}.{rest[1]}"] = tensor.clone()
    return shared, mine


@pytest.fixture(scope="module")
def like_the_released(our_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("release") / "run"
    train(our_data, folder, "--moe", "stratified", "--strata", "1,3", "--variant", "release", updates=1)
    return open_checkpoint(folder / "checkpoint_last.pt")


def write_as_released(original: dict[str, Any], data: Path, folder: Path, ranks: int) -> Path:
    """Files as fairseq's mixture-of-experts branch writes them; with 8 ranks each of the 4 experts is there twice."""
    shared, experts = as_released(original["model"], 4)
    config = {"model": dict(original["cfg"]["model"], _name="transformer"), "task": {"data": str(data)}}
    rest = {"cfg": config, "args": None, "extra_state": {}, "optimizer_history": [{"num_updates": 7}]}
    torch.save({**rest, "model": shared}, folder / "checkpoint_best-shared.pt")
    each = max(1, 4 // ranks)
    for rank in range(ranks):
        own = {}
        for name, tensor in experts.items():
            layer, _, inside = name.partition(".experts.")
            number, leaf = inside.split(".", 1)
            if int(number) // each == rank % (4 // each):
                own[f"{layer}.experts.{int(number) % each}.{leaf}"] = tensor.half()
        torch.save({**rest, "model": own}, folder / f"checkpoint_best-rank-{rank}.pt")
    return folder / "checkpoint_best-rank-0.pt"


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_a_released_model_is_put_together_from_its_ranks(
    ranks: int, like_the_released: dict[str, Any], our_data: Path, tmp_path: Path
) -> None:
    part, out = write_as_released(like_the_released, our_data, tmp_path, ranks), tmp_path / "ours.pt"
    command = ["checkpoint", "convert", str(part), str(out), "--data", str(our_data)]
    assert cli.main([*command, "--dictionary", str(our_data / "dict.txt")]) == 0
    found = open_checkpoint(out)
    for name, tensor in like_the_released["model"].items():
        torch.testing.assert_close(found["model"][name], tensor, rtol=1e-3, atol=1e-3)
    settings = found["cfg"]["model"]
    assert (settings["moe"], settings["strata"], settings["variant"]) == ("stratified", "1,3", "release")
    assert load_model(out, device="cpu").updates == 7


@pytest.mark.parametrize("name", ["checkpoint_best-rank-1.pt", "checkpoint_best-shared.pt"])
def test_a_missing_part_of_a_released_model_is_named(
    name: str, like_the_released: dict[str, Any], our_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    part = write_as_released(like_the_released, our_data, tmp_path, 4)
    (tmp_path / name).unlink()
    assert cli.main(["checkpoint", "convert", str(part), str(tmp_path / "x.pt"), "--data", str(our_data)]) == 2
    assert f"{name} is missing" in capsys.readouterr().err


def test_without_optimiser_and_in_half_precision(trained_run: TrainedRun, tmp_path: Path) -> None:
    out = tmp_path / "small.pt"
    arguments = ["checkpoint", "convert", str(trained_run.folder), str(out), "--no-optimizer", "--dtype", "bf16"]
    assert cli.main(arguments) == 0
    found = inspect_checkpoint(out)
    assert found["uses"] == ["translate", "fine-tune"] and found["precision"].keys() == {"bfloat16"}
    assert out.stat().st_size < (trained_run.folder / "checkpoint_best.pt").stat().st_size / 4
    small, whole = (load_model(path, device="cpu").model.state_dict() for path in (out, trained_run.folder))
    assert all(torch.equal(small[name], whole[name].bfloat16().float()) for name in whole)


def test_an_exported_folder_becomes_a_file_again(trained_run: TrainedRun, tmp_path: Path) -> None:
    assert cli.main(["export", str(trained_run.folder), str(tmp_path / "exported")]) == 0
    assert cli.main(["checkpoint", "convert", str(tmp_path / "exported"), str(tmp_path / "back.pt")]) == 0
    back, whole = (
        load_model(path, device="cpu").model.state_dict() for path in (tmp_path / "back.pt", trained_run.folder)
    )
    assert all(torch.equal(back[name], whole[name]) for name in whole)


def test_a_whole_checkpoint_can_be_resumed_from_after_converting(trained_run: TrainedRun, tmp_path: Path) -> None:
    last = trained_run.folder / "checkpoint_last.pt"
    assert cli.main(["checkpoint", "convert", str(last), str(tmp_path / "copy.pt")]) == 0
    assert "resume" in inspect_checkpoint(tmp_path / "copy.pt")["uses"]
    one, other = (open_checkpoint(path)["last_optimizer_state"]["state"] for path in (last, tmp_path / "copy.pt"))
    assert all(torch.equal(one[key]["exp_avg"], other[key]["exp_avg"]) for key in one)
