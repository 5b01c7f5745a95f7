"""A dense model that was not trained, as a checkpoint, with a toy data folder."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq import tasks
from omegaconf import OmegaConf

from smoe_mt.checkpoints.schema import untrained_history
from smoe_mt.checkpoints.writing import write
from smoe_mt.models import SMoETransformerConfig
from smoe_mt.tasks.config import ManyToManyTranslationConfig


def save_model(data: Path, path: Path, **settings: Any) -> Path:
    """A model of two layers a side with weights that were drawn."""
    sizes = {"embed_dim": 16, "ffn_embed_dim": 24, "layers": 2, "attention_heads": 2}
    both = {f"{side}_{name}": size for side in ("encoder", "decoder") for name, size in sizes.items()}
    model = asdict(SMoETransformerConfig()) | both | {"_name": "smoe_transformer", "moe": "none"} | settings
    task = asdict(ManyToManyTranslationConfig()) | {"_name": "many_to_many_translation", "data": str(data)}
    task |= {"seed": 1, "train_subset": "train"}
    torch.manual_seed(1)
    opened = tasks.setup_task(OmegaConf.create(task))
    made = opened.build_model(OmegaConf.create(model), from_checkpoint=True)
    for name, weight in made.named_parameters():
        if name.endswith("bias"):  # some start at 0, so that a lost one would not be seen
            torch.nn.init.normal_(weight, std=0.1)
    state = {"args": None, "cfg": {"model": model, "task": task}, "model": made.state_dict()}
    state |= {"optimizer_history": untrained_history(7), "task_state": opened.state_dict(), "extra_state": {}}
    write(state, path)
    return path


@pytest.fixture(scope="session")
def dense(toy_text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(toy_text, tmp_path_factory.mktemp("dense") / "dense.pt")
