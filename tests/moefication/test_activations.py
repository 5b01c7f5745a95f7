"""What is recorded of a model's FFNs is what they read and what fires there, padding excluded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from smoe_mt.analysis.forced import direction_texts, forced_batches
from smoe_mt.errors import UserError
from smoe_mt.generation.checkpoint import load_model
from smoe_mt.moe.names import Block
from smoe_mt.moefication.activations import dense_ffns, record
from tests.moefication.conftest import save_model

DIRECTIONS = ("aa-en", "en-bb")


def test_shares_and_inputs_are_those_of_the_sentences_one_by_one(dense: Path) -> None:
    loaded = load_model(dense, device="cpu")
    found = record(loaded, DIRECTIONS, "valid", 10, 4096, keep_inputs=True)
    assert found.sentences == 10 and list(found.mean) == list(dense_ffns(loaded.model))
    layer = loaded.model.decoder.layers[1]
    seen: dict[str, list[torch.Tensor]] = {direction: [] for direction in DIRECTIONS}
    rows = []
    for direction, text in zip(DIRECTIONS, direction_texts(loaded.task, "valid", DIRECTIONS)):

        def hook(
            _module: object, inputs: tuple[torch.Tensor, ...], h: torch.Tensor, direction: str = direction
        ) -> None:
            seen[direction].append((h > 0).flatten(0, 1))
            rows.append(inputs[0].flatten(0, 1))

        handle = layer.fc1.register_forward_hook(hook)
        with torch.no_grad():
            for batch in forced_batches(loaded.task, loaded.model, text, 5, 1):  # a sentence a batch
                assert len(batch.lines) == 1
                loaded.model(**batch.net_input)
        handle.remove()
    name = Block("decoder", 2)
    for direction, parts in seen.items():
        assert found.active[name][direction] == pytest.approx(torch.cat(parts).double().mean().item())
    together = torch.cat([part for parts in seen.values() for part in parts])
    assert found.mean[name] == pytest.approx(together.double().mean().item())
    assert found.never[name] == pytest.approx(1 - together.any(dim=0).double().mean().item(), abs=1e-6)
    assert found.tokens["decoder"] == len(together) == len(found.inputs[name])
    torch.testing.assert_close(found.inputs[name].sum(dim=0), torch.cat(rows).sum(dim=0), rtol=1e-4, atol=1e-4)


def test_the_dense_ffns_of_a_model_with_experts_are_measured_too(toy_text: Path, tmp_path: Path) -> None:
    path = save_model(toy_text, tmp_path / "smoe.pt", moe="stratified", strata="2,2")
    found = record(load_model(path, device="cpu"), ("aa-en",), "valid", 5, 4096, keep_inputs=False)
    assert list(map(str, found.mean)) == ["encoder.layers.0", "decoder.layers.0"] and not found.inputs


def test_a_model_without_a_dense_ffn_is_refused(toy_text: Path, tmp_path: Path) -> None:
    path = save_model(toy_text, tmp_path / "all.pt", moe="vanilla", moe_freq=1, num_experts=2)
    with pytest.raises(UserError, match="no layer has a dense FFN"):
        record(load_model(path, device="cpu"), ("aa-en",), "valid", 5, 4096, keep_inputs=False)
