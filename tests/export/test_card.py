"""What the model card says, and what it leaves out."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from smoe_mt.export import native
from smoe_mt.export.card import model_card, read_scores

MODEL = {"moe": "stratified", "strata": [2, 6], "moe_freq": 2, "variant": "paper", "num_experts": 8}
SIZES = {"encoder_layers": 6, "decoder_layers": 5, "encoder_embed_dim": 512, "encoder_ffn_embed_dim": 2048}
MORE = {"encoder_attention_heads": 8, "max_source_positions": 1024, "max_target_positions": 1024}
CONFIG: dict[str, Any] = {
    "name": "nordic",
    "directions": ["fi-sv", "sv-fi"],
    "parameters": 1_234_567,
    "updates": 4000,
    "dtype": "fp32",
    "files": {"model.safetensors": {"bytes": 5_000_000}},
    "task_state": {"vocabulary": {"size": 8008}},
    "config": {"model": {**MODEL, **SIZES, **MORE}},
}
SOURCE = {"name": "manuals", "version": "7.4", "licence": "MPL-2.0", "pairs": {"fi-sv": 12_000}}
CORPUS = {"pairs": ["fi-sv"], "splits": {"train": {"fi-sv": 11_111}, "test": {"fi-sv": 500}}, "sources": [SOURCE]}
SCORES = {
    "updates": 4000,
    "beam": 5,
    "lenpen": 1.0,
    "metrics": {"bleu": "corpus BLEU"},
    "directions": {"fi-sv": {"bleu": 17.654, "sentences": 500, "signatures": {"bleu": "nrefs:1|tok:13a"}}},
    "mean": {"bleu": 17.654},
}


def test_data_scores_size_directions_and_licence() -> None:
    card = model_card(CONFIG, CORPUS, {"test": SCORES}, "CC-BY-4.0", native.use(CONFIG))
    for expected in (
        'license: "cc-by-4.0"',
        '- "fi"\n- "sv"',
        "1,234,567 parameters, 4,000 updates",
        "| fi-sv | 11,111 | 500 |",
        "| manuals | 7.4 | MPL-2.0 | fi-sv 12,000 |",
        "| fi-sv | 500 | 17.65 |",
        '"metrics": [{"type": "bleu", "value": 17.654}]',
        "`nrefs:1|tok:13a`",
        "| strata | 2, 6 |",
        "The weights: CC-BY-4.0. The text that they were trained and tested on: MPL-2.0.",
    ):
        assert expected in card
    assert "SMOE_MT_SYSTEMS" not in card


def test_what_is_not_known_is_said() -> None:
    card = model_card(CONFIG, {"pairs": ["fi-sv"], "splits": {}}, {}, None, native.use(CONFIG))
    assert "There were none next to the checkpoint" in card
    assert "stated no licence" in card and 'license: "other"' in card


def test_scores_of_other_updates_are_left_out(tmp_path: Path) -> None:
    for split, content in (("test", json.dumps(SCORES)), ("old", json.dumps({**SCORES, "updates": 1})), ("bad", "{")):
        (tmp_path / "evaluation" / split).mkdir(parents=True)
        (tmp_path / "evaluation" / split / "scores.json").write_text(content)
    (tmp_path / "checkpoint_best.pt").touch()
    loaded: Any = SimpleNamespace(checkpoint=tmp_path / "checkpoint_best.pt", updates=4000)
    with pytest.warns(UserWarning, match="left out of the model card") as warned:
        assert read_scores(loaded) == {"test": SCORES}
    assert len(warned) == 2
