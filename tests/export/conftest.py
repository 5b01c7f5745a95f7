"""A dense model that has learned a few sentences, as a checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence

from smoe_mt.checkpoints.reading import open_checkpoint
from smoe_mt.checkpoints.writing import write
from smoe_mt.generation.checkpoint import load_model
from tests.moefication.conftest import save_model


@pytest.fixture(scope="session")
def dense(toy_text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained in this process, which takes a second where a command takes many."""
    path = save_model(toy_text, tmp_path_factory.mktemp("dense") / "dense.pt", dropout=0.0, attention_dropout=0.0)
    loaded = load_model(path, device="cpu")
    task, model = loaded.task, loaded.model.train()
    pairs = [
        task.folder.references("valid", direction, side)
        for direction in ("aa-en", "bb-en")
        for side in ("source", "target")
    ]
    sources = [task.encode(line, "en") for lines in pairs[::2] for line in lines]
    targets = [
        torch.tensor([*task.codec.pieces(line), task.dictionary.eos()]) for lines in pairs[1::2] for line in lines
    ]
    source, target = (pad_sequence(each, batch_first=True, padding_value=1) for each in (sources, targets))
    previous = pad_sequence([each.roll(1) for each in targets], batch_first=True, padding_value=1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        logits, _ = model(source, None, previous)
        F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=1).backward()
        optimizer.step()
    state = open_checkpoint(path, mapped=False)
    write({**state, "model": model.eval().state_dict()}, path)
    return path
