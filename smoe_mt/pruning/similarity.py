"""How similar experts are: matrices [N, N] in float64, symmetric, 1 for experts that are equal in the respect that counts.

``linear_cka``      of their outputs on the same tokens
``weights_alike``   of all of their weights
``products_alike``  of W_out W_in, what an FFN would compute if its activation were linear
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from smoe_mt.errors import UserError
from smoe_mt.moe import ExpertBank, FFNBank

#: Expert bank, numbers of some of its experts, a sample of tokens [n, D] -> their similarities.
Measure = Callable[[ExpertBank, range, Tensor], Tensor]


def linear_cka(outputs: Sequence[Tensor]) -> Tensor:
    """Centred kernel alignment with the linear kernel (Kornblith et al. 2019, arXiv 1905.00414, section 3).

        CKA(A, B) = HSIC(A, B) / sqrt(HSIC(A, A) HSIC(B, B)),   HSIC(A, B) = |A' B|^2 (Frobenius)

    `outputs`: [n, D] each, rows of the same n tokens; they are centred. Rotating or scaling an expert's outputs changes nothing.
    An expert whose outputs do not vary, or fewer than 2 tokens, have similarity 0 with others.
    """
    centred = [(each := output.double()) - each.mean(dim=0) for output in outputs]
    hsic = torch.zeros(len(centred), len(centred), dtype=torch.double)
    for i, one in enumerate(centred):
        for j in range(i, len(centred)):
            hsic[i, j] = hsic[j, i] = (one.t() @ centred[j]).square().sum()
    scale = hsic.diagonal().sqrt()
    cka = hsic / (scale[:, None] * scale[None])
    return torch.where(cka.isfinite(), cka, 0.0).fill_diagonal_(1.0)


def outputs_alike(bank: ExpertBank, experts: range, x_TD: Tensor) -> Tensor:
    """CKA of what these experts of a bank make of the same tokens, all of which pass all of them."""
    if x_TD.size(0) < 2:
        return torch.eye(len(experts), dtype=torch.double)
    return linear_cka([bank.expert_output(e, x_TD) for e in experts])


def alike(vectors: Sequence[Tensor]) -> Tensor:
    """1 - |a - b|^2 / (|a|^2 + |b|^2): the squared distance on a scale on which 1 means equal, 0 orthogonal."""
    return _from_products(torch.stack([_products(one, vectors) for one in vectors]))


def weights_alike(bank: ExpertBank, experts: range, _: Tensor) -> Tensor:
    """``alike`` of all weights that belong to an expert."""
    products = torch.zeros(len(experts), len(experts), dtype=torch.double)
    for stack in bank.stacks().values():
        slices = [stack[e] for e in experts]
        products += torch.stack([_products(one, slices) for one in slices])
    return _from_products(products)


def products_alike(bank: ExpertBank, experts: range, _: Tensor) -> Tensor:
    """``alike`` of W_out W_in [D, D], which does not depend on how hidden units are numbered.

    Raises:
        UserError: experts that are no FFNs.
    """
    if not isinstance(bank, FFNBank):
        raise UserError(f"--by surrogate needs experts that are FFNs, not {type(bank).__name__}; choose --by outputs")
    w_in, _b_in, w_out, _b_out = bank.weights(next(bank.parameters()).dtype)
    return alike([w_out[e] @ w_in[e] for e in experts])


MEASURES: dict[str, Measure] = {"outputs": outputs_alike, "weights": weights_alike, "surrogate": products_alike}


def _products(one: Tensor, others: Sequence[Tensor]) -> Tensor:
    """Scalar products with `one`, in float64; [N]."""
    flat = one.flatten().double()
    return torch.stack([flat @ other.flatten().double() for other in others]).cpu()


def _from_products(products: Tensor) -> Tensor:
    squares = products.diagonal()
    total = squares[:, None] + squares[None]
    found = torch.where(total > 0, 2 * products / total, 0.0)
    return found.fill_diagonal_(1.0)
