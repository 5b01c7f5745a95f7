"""Products that are ready for evaluation: those of torch, with activation and residual, for any number of rows."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from smoe_mt.moe import linear
from smoe_mt.moe.linear import ACTIVATIONS, PackedLinear, packable, rows_computed
from tests.moe.settings import ACTIVATED

ROWS = [1, 8, 9, 23, 64, 65]
DTYPES = {torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float64: 1e-9}


@pytest.fixture(autouse=True, params=["all", "large"])
def packed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of these sizes are packed, or left as they are."""
    if request.param == "all":
        monkeypatch.setattr(linear, "LEAST_WEIGHTS", dict.fromkeys(linear.LEAST_WEIGHTS, 0))


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("bias", [True, False])
def test_a_product_with_its_activation(rows: int, activation: str, bias: bool) -> None:
    x, weight = torch.randn(rows, 16), torch.randn(24, 16)
    b = torch.randn(24) if bias else None
    want = ACTIVATED[activation](functional.linear(x, weight, b))
    torch.testing.assert_close(PackedLinear(weight, b)(x, activation), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_product_with_a_residual(rows: int, dtype: torch.dtype) -> None:
    x, weight, bias, plus = (torch.randn(*shape, dtype=dtype) for shape in ((rows, 16), (24, 16), (24,), (rows, 24)))
    want = functional.linear(x, weight, bias) + plus
    got = PackedLinear(weight, bias)(x, plus_RO=plus.clone())
    torch.testing.assert_close(got, want, rtol=DTYPES[dtype], atol=10 * DTYPES[dtype])


def test_packs_what_it_may() -> None:
    weight = torch.randn(24, 16)
    assert (PackedLinear(weight).packed is not None) == (packable(weight) and linear.LEAST_WEIGHTS[torch.float32] == 0)
    assert PackedLinear(weight.double()).packed is None


def test_products_of_few_different_sizes_are_asked_for() -> None:
    """oneDNN keeps code for each that it was ever asked for: translating for long would fill the memory."""
    sizes = {rows_computed(rows) for rows in range(1, 1025)}
    assert len(sizes) <= 58 and all(rows <= rows_computed(rows) < 1.5 * rows for rows in range(1, 1025))
