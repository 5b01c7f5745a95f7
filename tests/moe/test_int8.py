"""Products in 8-bit integers: close to those in float32, the same for a row whatever stands beside it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from smoe_mt.errors import UserError
from smoe_mt.moe.int8 import Int8Linear, check_int8, quantise
from tests.moe.settings import ACTIVATED

try:
    check_int8(torch.device("cpu"))
except UserError as reason:
    pytestmark = pytest.mark.skip(reason=str(reason))

ROWS = [1, 5, 23, 65]


def reference(x_RI: Tensor, weight_OI: Tensor) -> Tensor:
    """W x of the quantised numbers, in float64."""
    (x, scales_R1), (weight, scales_O1) = quantise(x_RI), quantise(weight_OI)
    return x.double() @ weight.double().T * scales_R1 * scales_O1.T


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("activation", ACTIVATED)
@pytest.mark.parametrize("bias", [True, False])
def test_a_product_with_its_activation(rows: int, activation: str, bias: bool) -> None:
    x, weight = torch.randn(rows, 40), torch.randn(24, 40)
    b = torch.randn(24) if bias else None
    want = ACTIVATED[activation](reference(x, weight) + (0 if b is None else b))
    torch.testing.assert_close(Int8Linear(weight, b)(x, activation).double(), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rows", ROWS)
def test_a_product_with_a_residual(rows: int) -> None:
    x, weight, plus = torch.randn(rows, 40), torch.randn(24, 40), torch.randn(rows, 24)
    got = Int8Linear(weight)(x, plus_RO=plus)
    torch.testing.assert_close(got.double(), reference(x, weight) + plus, rtol=1e-4, atol=1e-4)


def test_the_error_is_that_of_half_a_step_of_each_number() -> None:
    x, weight = torch.randn(50, 256), torch.randn(64, 256)
    wrong = Int8Linear(weight)(x) - functional.linear(x, weight)
    assert wrong.std() < 0.02 * functional.linear(x, weight).std()


@pytest.mark.parametrize("rows", ROWS)
def test_a_row_does_not_depend_on_the_others(rows: int) -> None:
    product, x = Int8Linear(torch.randn(24, 40), torch.randn(24)), torch.randn(rows, 40)
    beside = torch.cat([x, 100 * torch.randn(7, 40)])
    assert torch.equal(product(beside)[:rows], product(x))


def test_a_row_of_zeros_gives_the_bias() -> None:
    bias = torch.randn(24)
    assert torch.equal(Int8Linear(torch.randn(24, 40), bias)(torch.zeros(2, 40)), bias.expand(2, -1))


def test_the_largest_number_is_met_exactly() -> None:
    x = torch.tensor([[254.0, -1.0, 2.0]])
    integers, scales = quantise(x)
    assert integers.tolist() == [[127, 0, 1]] and scales.item() == 2.0


def test_another_device_is_refused() -> None:
    with pytest.raises(UserError, match="int8 is for CPUs"):
        check_int8(torch.device("meta"))


def test_a_processor_without_vnni_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    with pytest.raises(UserError, match="VNNI"):
        check_int8(torch.device("cpu"))
