"""Numbers that hosts and programs agree on. A host passes ``.value``."""

from __future__ import annotations

import triton.language as tl

# What is added to the experts' output: nothing, the input of the gate, or that after its norm.
NO_RESIDUAL, INPUT, NORMED = (tl.constexpr(i) for i in range(3))
# How many rows an expert serves at most.
NO_CAPACITY, PAPER, RELEASE = (tl.constexpr(i) for i in range(3))
# The products of rows with weights.
UP, DOWN, GRAD_HIDDEN, GRAD_INPUT = (tl.constexpr(i) for i in range(4))
RELU, GELU, SILU = (tl.constexpr(i) for i in range(3))
# Seeds of a gate, one for each thing that is drawn.
SEEDS = tl.constexpr(4)
SECOND_CHOICE, MASKED_SLOTS, EXPERT_DROPOUT, DROPOUT_SEED = (tl.constexpr(i) for i in range(4))
