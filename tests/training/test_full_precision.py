"""What has been changed in half precision reaches the float32 copies of an optimiser, and nothing else in them changes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from smoe_mt.training.full_precision import take_over_changes


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_changed_numbers_are_taken_over_and_the_others_keep_their_precision(dtype: torch.dtype, flat: bool) -> None:
    torch.manual_seed(0)
    copies = [torch.randn(3, 4), torch.randn(5)]
    parameters = [copy.to(dtype) for copy in copies]
    want = [copy.clone() for copy in copies]
    parameters[0][1], want[0][1] = 0.3, torch.tensor(0.3).to(dtype).float()
    vector = torch.cat([copy.flatten() for copy in copies])
    optimizer = SimpleNamespace(fp16_params=parameters, fp32_params={None: vector} if flat else copies)
    take_over_changes(optimizer)
    found = vector.split([12, 5]) if flat else copies
    for got, expected in zip(found, want, strict=True):
        assert got.view_as(expected).equal(expected)


def test_an_optimiser_without_copies_is_left_alone() -> None:
    take_over_changes(SimpleNamespace())
