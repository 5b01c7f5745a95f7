"""A dense model in CTranslate2: our hypotheses and scores; and what it cannot hold."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import torch

from smoe_mt import Translator, cli
from smoe_mt.errors import UserError
from smoe_mt.generation import Decoding
from smoe_mt.generation.checkpoint import load_model
from tests.conftest import TrainedRun
from tests.moefication.conftest import save_model


@pytest.fixture(scope="module")
def folder(dense: Path) -> Path:
    pytest.importorskip("ctranslate2")
    out = dense.parent / "out"
    assert cli.main(["export", str(dense), str(out), "--format", "ctranslate2"]) == 0
    return out


def test_holds_all_that_a_translation_needs(folder: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    assert names == {"config.json", "model.bin", "shared_vocabulary.json", "spm.model", "README.md"}
    assert json.loads((folder / "config.json").read_text())["add_source_eos"] is True


def test_finds_our_hypotheses_and_gives_them_our_log_probabilities(folder: Path, dense: Path) -> None:
    """The search's own scores leave forbidden tokens out of the softmax, as ours do not."""
    import ctranslate2

    loaded = load_model(dense, device="cpu")
    lines = loaded.task.folder.references("test", "aa-en", side="source")
    expected = Translator(loaded).translate_in_detail(lines, "aa", "en", Decoding(4, max_len_a=0, max_len_b=60))
    translator = ctranslate2.Translator(str(folder), intra_threads=1)
    sources = [["<2en>", *loaded.task.codec.symbols(line)] for line in lines]
    found = translator.translate_batch(
        sources, beam_size=4, max_decoding_length=60, suppress_sequences=[["<blank>"]], return_scores=True
    )
    best = [each.hypotheses[0] for each in found]
    assert [loaded.task.spm.decode_pieces(each) for each in best] == [each.text for each in expected]
    wanted = [each.score for each in expected]
    assert [each.scores[0] for each in found] == pytest.approx(wanted, abs=1e-2)
    scored = translator.score_batch(sources, best)
    assert [sum(each.log_probs) / len(each.log_probs) for each in scored] == pytest.approx(wanted, abs=1e-4)


def test_the_cards_example_runs(folder: Path, dense: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    ours = Translator.from_pretrained(dense, device="cpu")
    line = ours.loaded.task.folder.references("test", "aa-en", side="source")[0]
    exec(example.replace('folder = "."', f"folder = {str(folder)!r}").replace('"..."', repr(line)), {})  # noqa: S102  # our own card
    assert capsys.readouterr().out.strip() == repr(ours.translate([line], "aa", "en"))


def test_int8_weights_are_smaller(folder: Path, dense: Path, tmp_path: Path) -> None:
    out = tmp_path / "int8"
    assert cli.main(["export", str(dense), str(out), "--format", "ctranslate2", "--dtype", "int8"]) == 0
    assert (out / "model.bin").stat().st_size < 0.8 * (folder / "model.bin").stat().st_size


def test_an_earlier_export_is_replaced(folder: Path, dense: Path, tmp_path: Path) -> None:
    for form in ("smoe-mt", "ctranslate2", "ctranslate2"):
        assert cli.main(["export", str(dense), str(tmp_path / "out"), "--format", form, "--overwrite"]) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {path.name for path in folder.iterdir()}


def test_a_model_with_experts_is_refused_with_the_way_that_works(
    trained_run: TrainedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["export", str(trained_run.folder), str(tmp_path / "out"), "--format", "ctranslate2"]) == 2
    error = capsys.readouterr().err
    assert "this model is a stratified one; export it with --format huggingface, or serve it" in error
    assert error.count("\n") == 1 and not (tmp_path / "out").exists()


def test_smoe_mt_says_what_reads_the_folder(folder: Path) -> None:
    with pytest.raises(UserError, match="a model in CTranslate2's format, which its README.md says how to use"):
        load_model(folder)


def test_without_the_library_its_extra_is_named(dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    from smoe_mt.export import ctranslate2

    with pytest.raises(UserError, match=r"pip install 'smoe_mt\[ctranslate2\]'"):
        ctranslate2.check(load_model(dense, device="cpu"))


def test_an_activation_that_it_lacks_is_named(toy_text: Path, tmp_path: Path) -> None:
    pytest.importorskip("ctranslate2")
    from smoe_mt.export import ctranslate2

    path = save_model(toy_text, tmp_path / "model.pt", activation_fn="linear")
    with pytest.raises(UserError, match="CTranslate2 has no activation linear"):
        ctranslate2.check(load_model(path, device="cpu"))


@pytest.mark.parametrize("activation", ["gelu", "gelu_accurate", "tanh"])
def test_activations_are_those_of_the_model(toy_text: Path, tmp_path: Path, activation: str) -> None:
    library = pytest.importorskip("ctranslate2")
    from smoe_mt.export import ctranslate2

    torch.manual_seed(1)
    path = save_model(toy_text, tmp_path / "model.pt", activation_fn=activation)
    loaded = load_model(path, device="cpu")
    (tmp_path / "out").mkdir()
    ctranslate2.convert(loaded.model, loaded.task.dictionary.symbols, tmp_path / "out", "float32")
    line = loaded.task.folder.references("test", "aa-en", side="source")[0]
    source, target = ["<2en>", *loaded.task.codec.symbols(line)], loaded.task.codec.symbols(line)
    (scored,) = library.Translator(str(tmp_path / "out")).score_batch([source], [target])
    with torch.no_grad():
        eos = loaded.task.dictionary.eos()
        output = torch.tensor([[*loaded.task.codec.pieces(line), eos]])
        logits, _ = loaded.model(loaded.task.encode(line, "en")[None], None, output.roll(1, dims=1))
        expected = logits.log_softmax(-1).gather(2, output[:, :, None]).flatten()
    assert scored.log_probs == pytest.approx(expected.tolist(), abs=1e-4)
