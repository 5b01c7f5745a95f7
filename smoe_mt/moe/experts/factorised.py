"""Expert FFNs whose matrices are matrix product operators with one shared centre (MPOE).

A matrix W [I, J] with I = i_1 ... i_n and J = j_1 ... j_n is a chain of n tensors T_k [r_(k-1), i_k, j_k, r_k], contracted over
the bonds r. The middle one holds nearly all numbers: all experts share it, and each has the outer ones for itself. The weights
are contracted once a pass, so the kernels for FFNs serve this bank as any other.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from smoe_mt.moe.experts.ffn import FFNBank, FFNWeights

#: The two matrices of an FFN.
MATRICES = ("w_in", "w_out")


def shape_of(size: int, parts: int) -> tuple[int, ...]:
    """``size`` as a product of ``parts`` factors: the middle ones get most, so that the centre is large and bonds are small."""
    factors = [1] * parts
    outwards = sorted(range(parts), key=lambda place: abs(place - parts // 2))
    turns = [*outwards, *outwards[: parts - 2]]  # the two ends get one for every two of the others
    for turn, prime in enumerate(sorted(_primes(size), reverse=True)):
        factors[turns[turn % len(turns)]] *= prime
    return tuple(factors)


def _primes(size: int) -> list[int]:
    found, divisor = [], 2
    while size > 1:
        while size % divisor == 0:
            found.append(divisor)
            size //= divisor
        divisor += 1
    return found


def bonds(rows: Sequence[int], columns: Sequence[int], most: int = 0) -> tuple[int, ...]:
    """r_0 ... r_n: at most ``most`` each (0: no limit), and no more than carry information; r_0 = r_n = 1."""
    sizes = [i * j for i, j in zip(rows, columns)]
    full = [min(math.prod(sizes[:k]), math.prod(sizes[k:])) for k in range(len(sizes) + 1)]
    return tuple(min(bond, most) if most else bond for bond in full)


def contract(factors: Sequence[Tensor]) -> Tensor:
    """The matrices of a chain: factors [E or 1, r, i, j, r'] -> [E, I, J].

    The outer factors are contracted first, from either end towards the middle, so that the centre is met once.
    """
    middle = len(factors) // 2
    left = _chain(factors[:middle], from_left=True)
    right = _chain(factors[middle + 1 :], from_left=False)
    centre = factors[middle]
    # [E, I_l, J_l, r] x [E, r, i, j, s] x [E, s, I_r, J_r]
    half = torch.einsum("eabr,erijs->eaibjs", left, centre.expand(left.size(0), *centre.shape[1:]))
    whole = torch.einsum("eaibjs,escd->eaicbjd", half, right)
    experts, a, i, c, b, j, d = whole.shape
    return whole.reshape(experts, a * i * c, b * j * d)


def _chain(factors: Sequence[Tensor], from_left: bool) -> Tensor:
    """[E, I, J, r] of factors whose left bond is 1, or [E, r, I, J] of those whose right bond is 1."""
    order = list(factors) if from_left else list(reversed(factors))
    total = order[0].squeeze(1) if from_left else order[0].squeeze(-1)
    for factor in order[1:]:
        if from_left:
            total = torch.einsum("eabr,erijs->eaibjs", total, factor).flatten(1, 2).flatten(2, 3)
        else:
            total = torch.einsum("erijs,esab->eriajb", factor, total).flatten(2, 3).flatten(3, 4)
    return total


def factorise(matrix: Tensor, rows: Sequence[int], columns: Sequence[int], most: int = 0) -> list[Tensor]:
    """The chain of a matrix [I, J] by singular value decompositions, exact where no bond is cut; factors [r, i, j, r'].

    Each bond's singular values are shared out evenly to the factors at its two sides.
    """
    n = len(rows)
    rest = matrix.double().reshape(*rows, *columns).permute(*[k + side for k in range(n) for side in (0, n)])
    limits, found, left = bonds(rows, columns, most), [], 1
    spectra: list[Tensor] = []
    for k in range(n - 1):
        u, s, v = torch.linalg.svd(rest.reshape(left * rows[k] * columns[k], -1), full_matrices=False)
        keep = limits[k + 1]
        found.append(u[:, :keep].reshape(left, rows[k], columns[k], keep))
        spectra.append(s[:keep])
        rest, left = s[:keep, None] * v[:keep], keep
    found.append(rest.reshape(left, rows[-1], columns[-1], 1))
    return _balanced(found, spectra)


def _balanced(factors: list[Tensor], spectra: Sequence[Tensor]) -> list[Tensor]:
    """The same matrix with half of each bond's singular values on either side: sweeping left them all to the right one."""
    for k, spectrum in enumerate(spectra):
        root = spectrum.clamp(min=torch.finfo(spectrum.dtype).tiny).sqrt()
        factors[k] = factors[k] * root
        factors[k + 1] = factors[k + 1] / root[:, None, None, None]
    return factors


class _MaskGradient(torch.autograd.Function):
    """x as it is; its gradient times ``keep``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, keep: float) -> Tensor:
        ctx.keep = keep
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.keep, None


class FactorisedExperts(FFNBank):
    """FFNs whose w_in [F, D] and w_out [D, F] have a centre in common, one each; biases are each expert's own.

    dim_shape, ffn_shape  D and F as products of as many factors, an odd number of them; None: five, as even as can be
    bond                  most of any bond; 0: no limit
    central_mask          probability that an update leaves the centres without a gradient, as every expert changes them

    Parameters: ``w_in_factors.{k}``, ``w_out_factors.{k}`` [E, r, i, j, r'], ``b_in``, ``b_out``; ``shared.w_in``,
    ``shared.w_out`` [r, i, j, r']. Each weight starts with the variance that nn.Linear's has.

    Raises:
        ValueError: shapes that do not multiply to D and F, or a probability outside [0, 1].
    """

    def __init__(
        self,
        num_experts: int,
        embed_dim: int,
        ffn_dim: int,
        activation: str = "relu",
        dim_shape: Sequence[int] | None = None,
        ffn_shape: Sequence[int] | None = None,
        bond: int = 0,
        central_mask: float = 0.0,
    ) -> None:
        super().__init__(num_experts, embed_dim, ffn_dim, activation)
        self.dim_shape = tuple(dim_shape) if dim_shape else shape_of(embed_dim, 5)
        self.ffn_shape = tuple(ffn_shape) if ffn_shape else shape_of(ffn_dim, 5)
        self.bond = bond
        self.central_mask = central_mask
        self._check()
        self.shared = nn.ParameterDict()
        for name in MATRICES:
            rows, columns = self._shapes(name)
            sizes = bonds(rows, columns, bond)
            factors = [torch.empty(sizes[k], i, j, sizes[k + 1]) for k, (i, j) in enumerate(zip(rows, columns))]
            middle = len(factors) // 2
            self.shared[name] = nn.Parameter(factors.pop(middle))
            own = [nn.Parameter(factor.expand(num_experts, *factor.shape).clone()) for factor in factors]
            setattr(self, f"{name}_factors", nn.ParameterList(own))
        self.b_in = nn.Parameter(torch.empty(num_experts, ffn_dim))
        self.b_out = nn.Parameter(torch.empty(num_experts, embed_dim))
        self._update: int | None = None
        self._cached: dict[torch.dtype, tuple[tuple[int, ...], FFNWeights]] = {}
        self.reset_parameters()

    def _check(self) -> None:
        for name, size, shape in (("dim", self.embed_dim, self.dim_shape), ("ffn", self.ffn_dim, self.ffn_shape)):
            if min(shape, default=0) < 1 or math.prod(shape) != size:
                raise ValueError(f"the {name} shape {','.join(map(str, shape))} multiplies to no {size}")
        if len(self.dim_shape) != len(self.ffn_shape) or len(self.dim_shape) % 2 == 0 or len(self.dim_shape) < 3:
            raise ValueError(
                f"both shapes need the same odd number of factors, at least 3, not {len(self.dim_shape)} and {len(self.ffn_shape)}"
            )
        if self.bond < 0:
            raise ValueError(f"the largest bond must be 0 (no limit) or positive, not {self.bond}")
        if not 0 <= self.central_mask <= 1:
            raise ValueError(f"the probability of masking the centres must be in [0, 1], not {self.central_mask}")

    def _shapes(self, name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """(of its rows, of its columns)."""
        return (self.ffn_shape, self.dim_shape) if name == "w_in" else (self.dim_shape, self.ffn_shape)

    def _own(self, name: str) -> list[nn.Parameter]:
        return list(getattr(self, f"{name}_factors"))

    def reset_parameters(self) -> None:
        """The product of n independent factors, summed over the bonds, has the variance that a linear layer's weight has."""
        for name, bias in (("w_in", self.b_in), ("w_out", self.b_out)):
            rows, columns = self._shapes(name)
            paths = math.prod(bonds(rows, columns, self.bond))
            fan_in = math.prod(columns)
            std = (1 / (3 * fan_in * paths)) ** (1 / (2 * len(rows)))
            for factor in (*self._own(name), self.shared[name]):
                nn.init.normal_(factor, std=std)
            nn.init.uniform_(bias, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))

    def weights(self, dtype: torch.dtype) -> FFNWeights:
        """Contracted from the factors; without gradients they are kept until a factor changes."""
        if torch.is_grad_enabled():
            self._cached = {}
            return self._contracted(dtype)
        version, kept = self.version, self._cached.get(dtype)
        if kept is not None and kept[0] == version:
            return kept[1]
        weights = self._contracted(dtype)
        if not self.training:
            self._cached = {dtype: (version, weights)}
        return weights

    def _contracted(self, dtype: torch.dtype) -> FFNWeights:
        keep = self._draw_keep() if self.training and self.central_mask and torch.is_grad_enabled() else 1.0
        w_in, w_out = (self._matrices(name, keep).to(dtype) for name in MATRICES)
        return w_in, self.b_in.to(dtype), w_out, self.b_out.to(dtype)

    def _matrices(self, name: str, keep: float) -> Tensor:
        """[E, I, J]."""
        own, centre = self._own(name), self.shared[name]
        if keep != 1.0:
            centre = _MaskGradient.apply(centre, keep)
        middle = len(own) // 2
        with torch.autocast(centre.device.type, enabled=False):
            return contract([*own[:middle], centre[None], *own[middle:]])

    def set_num_updates(self, num_updates: int) -> None:
        """The number of the update that comes; fairseq tells every module of a model that has this function."""
        self._update = num_updates

    def _draw_keep(self) -> float:
        """1, or 0 with probability ``central_mask``.

        Told the number of the update, it is drawn from that: alike for all batches of the update and on all ranks, and again
        in a run that goes on from a checkpoint. Else it is drawn for each pass.
        """
        drawn = float(torch.rand(()).item()) if self._update is None else random.Random(f"mask {self._update}").random()
        return float(drawn >= self.central_mask)

    def from_dense(self, w_in: Tensor, b_in: Tensor, w_out: Tensor, b_out: Tensor) -> Mapping[str, Tensor]:
        """Factors of the FFN, the outer ones once for each expert; exact unless a bond is cut."""
        if w_in.shape != (self.ffn_dim, self.embed_dim):
            raise ValueError(f"w_in is {tuple(w_in.shape)}, but these experts have {(self.ffn_dim, self.embed_dim)}")
        experts = self.b_in.size(0)
        state: dict[str, Tensor] = {}
        for name, matrix, bias in (("w_in", w_in, b_in), ("w_out", w_out, b_out)):
            factors = [factor.to(self.b_in.dtype) for factor in factorise(matrix, *self._shapes(name), self.bond)]
            state[f"shared.{name}"] = factors.pop(len(factors) // 2)
            for k, factor in enumerate(factors):
                state[f"{name}_factors.{k}"] = factor.expand(experts, *factor.shape).clone()
            state["b" + name[1:]] = bias.to(self.b_in.dtype).expand(experts, *bias.shape).clone()
        return state
