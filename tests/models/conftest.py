"""An input for small models."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def net_input() -> dict[str, torch.Tensor]:
    """Two sentences, the second shorter on both sides."""
    return {
        "src_tokens": torch.tensor([[5, 6, 7, 8, 2], [9, 10, 2, 1, 1]]),
        "src_lengths": torch.tensor([5, 3]),
        "prev_output_tokens": torch.tensor([[2, 11, 12, 13], [2, 14, 1, 1]]),
    }
