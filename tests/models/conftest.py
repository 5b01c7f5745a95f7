"""Small models and an input for them."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from smoe_mt.models import SMoETransformerConfig, SMoETransformerModel


@pytest.fixture
def make_model(task: SimpleNamespace) -> Callable[..., SMoETransformerModel]:
    def make(**settings: Any) -> SMoETransformerModel:
        sizes = {"embed_dim": 16, "ffn_embed_dim": 24, "layers": 2, "attention_heads": 2}
        cfg = SMoETransformerConfig(**{f"{side}_{k}": v for side in ("encoder", "decoder") for k, v in sizes.items()})
        for name, value in settings.items():
            setattr(cfg, name, value)
        torch.manual_seed(1)
        return SMoETransformerModel.build_model(cfg, task)

    return make


@pytest.fixture
def net_input() -> dict[str, torch.Tensor]:
    """Two sentences, the second shorter on both sides."""
    return {
        "src_tokens": torch.tensor([[5, 6, 7, 8, 2], [9, 10, 2, 1, 1]]),
        "src_lengths": torch.tensor([5, 3]),
        "prev_output_tokens": torch.tensor([[2, 11, 12, 13], [2, 14, 1, 1]]),
    }
