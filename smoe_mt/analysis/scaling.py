"""What training costs on many devices: compute, exchanges of tokens, reductions of gradients, memory (docs/scaling.md).

Of one update, for the rank that has most to do or to hold. T tokens a batch on each side, m batches an update, n ranks, e of
them share out the experts of each block, b bytes a number:

    compute      3 x FLOPs/token x T m / (FLOP/s): backward costs twice the forward pass; experts times the load of the rank
                 that has the most, relative to the mean
    Adam         parameters held x bytes read and written / (bytes/s of memory)
    all-to-all   4 trips x rows x d x b x (e - 1) / e a block: there and back, forward and backward; rows = T k V, V expected
                 visits, nothing dropped; a message of 8 bytes x (2 + experts) to each rank before it, at each gate
    all-reduce   2 (n - 1) / n x b x shared weights; 2 (r - 1) / r x b x a rank's experts over r = n / e replicas; as rings
    memory       weights, gradients and optimiser state held, a buffer for the reduction, and activations

With c parts, 1 / c of the exchanges' bytes is not under computation, and no more is than experts compute meanwhile.

Activations, numbers kept for the backward pass: a token of a layer 10 d + 2 h L a module of attention (h heads, L tokens of a
sentence), 3 d + 2 F a dense FFN, 3 d + rows x (F + 5 d) a MoE block; V (1 + 8 / b) for the vocabulary's logits, their
log-softmax and its gradient, both float32. An estimate: what it leaves out (buffers of a library, fragmentation) is real too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from smoe_mt.analysis.cost import cost_of_model, skeleton
from smoe_mt.analysis.hardware import Hardware
from smoe_mt.errors import UserError
from smoe_mt.models.sizes import banks_of, shared_units_of
from smoe_mt.models.smoe_transformer import SMoETransformerModel
from smoe_mt.moe import ExpertBank
from smoe_mt.moe.strata import expected_rows
from smoe_mt.training.batch import update_freq_for
from smoe_mt.training.expert_parallel import BUFFER, buckets

BACKWARD = 2  # FLOPs of a backward pass to those of the forward one
TRIPS = 4
WORD = 8  # bytes of an int64


@dataclass(frozen=True)
class Precision:
    """Bytes a parameter: weights, gradients (which are reduced so), what the optimiser keeps, what an Adam step reads and
    writes; and bytes a number of activations and exchanged rows."""

    weight: int
    gradient: int
    optimizer: int
    adam_traffic: int
    row: int


# Adam reads weight, gradient and two moments and writes all but the gradient, 7 x 4 bytes. In half precision fairseq keeps
# float32 copies of weights and gradients: those of the gradients are made, those of the weights copied back.
HALF = Precision(weight=2, gradient=2, optimizer=4 + 4 + 8, adam_traffic=28 + 2 + 4 + 2, row=2)
PRECISIONS = {
    "fp32": Precision(weight=4, gradient=4, optimizer=8, adam_traffic=28, row=4),
    "bf16": HALF,
    "fp16": HALF,
    "amp": Precision(weight=4, gradient=4, optimizer=8, adam_traffic=28, row=2),
}


@dataclass(frozen=True)
class Setup:
    """How a model is trained. chunks: parts of an exchange; length: tokens of a sentence."""

    ranks: int
    shared_by: int
    chunks: int
    tokens: int
    update_freq: int
    precision: str
    length: int


@dataclass(frozen=True)
class ExpertSet:
    """The experts of a bank: of a block, or of a layer of a stack. All but the strata for each expert.

    strata        as the gates see them
    parameters    of it alone
    flops_a_row   of a forward pass
    units         hidden units
    rows          a token, under uniform routing, unless measured
    row_dim       numbers of a row
    """

    strata: tuple[int, ...]
    parameters: tuple[int, ...]
    flops_a_row: tuple[float, ...]
    units: tuple[int, ...]
    rows: tuple[float, ...]
    row_dim: int

    @property
    def experts(self) -> int:
        return sum(self.strata)

    @property
    def flops(self) -> tuple[float, ...]:
        """Of a token."""
        return tuple(rows * flops for rows, flops in zip(self.rows, self.flops_a_row))

    def most_experts(self, ranks: int) -> int:
        """On the rank that has most of them."""
        return math.ceil(self.experts / ranks)


@dataclass(frozen=True)
class ModelFacts:
    """What of a model matters here: parameters that all ranks have, experts, FLOPs of a token outside of them."""

    model: SMoETransformerModel
    vocabulary: int
    shared_parameters: int
    expert_sets: tuple[ExpertSet, ...]
    other_flops: float

    @property
    def embed_dim(self) -> int:
        dim: int = self.model.cfg.encoder.embed_dim
        return dim

    def held(self, shared_by: int) -> tuple[int, int]:
        """(shared parameters, experts' parameters) of the fullest rank."""
        return self.shared_parameters, max(
            sum(sum(s.parameters[rank::shared_by]) for s in self.expert_sets) for rank in range(shared_by)
        )

    def stacks_held(self, shared_by: int) -> list[int]:
        """Parameters of each tensor of experts, of the first rank, which never has fewer experts than another."""
        banks = (module for module in self.model.modules() if isinstance(module, ExpertBank))
        return [
            sum(e % shared_by == 0 for e in bank.members(name)) * stack.shape[1:].numel()
            for bank in banks
            for name, stack in bank.stacks().items()
        ]


def facts(model_cfg: Any, vocabulary: int, length: int, rows: float | None = None) -> ModelFacts:
    """Of a configuration, without its weights; `rows` measured ones a token and block, None for uniform routing.

    Raises:
        UserError: settings that make no model.
    """
    model = skeleton(model_cfg, vocabulary)
    cost = cost_of_model(model, vocabulary, length)
    uniform = _expert_sets(model, None)
    sets = _expert_sets(model, rows)
    experts = sum(sum(s.parameters) for s in sets)
    other = cost.flops_per_token - sum(sum(s.flops) for s in uniform)
    return ModelFacts(model, vocabulary, cost.total_parameters - experts, sets, other)


def _expert_sets(model: SMoETransformerModel, rows: float | None) -> tuple[ExpertSet, ...]:
    found = []
    for use in (use for blocks in banks_of(model).values() for banks in blocks for use in banks):
        bank, total = use.bank, sum(use.rows)
        strata = use.groups if model.system is not None and model.system.nested else (bank.num_experts,)
        each = use.rows if rows is None else tuple(rows * one / total for one in use.rows)
        found.append(
            ExpertSet(
                strata, bank.parameters_of_experts(), bank.flops_per_row(), bank.hidden_sizes, each, bank.embed_dim
            )
        )
    return tuple(found)


# --- loads ---


def expert_loads(strata: Sequence[int]) -> list[float]:
    """Visits of a token to each expert of a block under uniform routing; they add up to ``expected_visits``."""
    return list(expected_rows(strata, lambda _visible: 1.0))


def rank_loads(strata: Sequence[int], ranks: int, in_turn: bool = True) -> list[float]:
    """Visits of a token to the experts of each rank, dealt out in turn, as ``moe.distributed.placement`` does, or in runs."""
    loads = expert_loads(strata)
    if in_turn:
        return [sum(loads[rank::ranks]) for rank in range(ranks)]
    ends = [len(loads) * rank // ranks for rank in range(ranks + 1)]
    return [sum(loads[begin:end]) for begin, end in pairwise(ends)]


def busiest(strata: Sequence[int], ranks: int, in_turn: bool = True) -> float:
    """Load of the rank that has the most, to the mean."""
    loads = rank_loads(strata, ranks, in_turn)
    return max(loads) * ranks / sum(loads)


# --- what an update costs ---


@dataclass(frozen=True)
class Forecast:
    """One update of one rank: seconds, bytes that leave it, bytes that it holds; what does not fit."""

    ranks: int
    expert_parallel_size: int
    tokens_per_update: int
    update_freq: int
    shared_parameters: int
    expert_parameters: int
    flops: float
    compute_s: float
    adam_s: float
    exchange_bytes_within: float
    exchange_bytes_between: float
    exchanges: int
    exchange_s: float
    hidden_s: float
    reduce_bytes: float
    reduce_s: float
    weight_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    buffer_bytes: int
    activation_bytes: float
    memory_bytes: float
    seconds: float
    efficiency: float
    tokens_per_s: float
    does_not_fit: str

    def as_json(self) -> dict[str, Any]:
        """In units of one."""
        return asdict(self)


def forecast(model: ModelFacts, setup: Setup, on: Hardware) -> Forecast:
    """What an update costs.

    Raises:
        UserError: sizes that do not divide, or fewer experts than ranks that share them.
    """
    check(model, setup)
    precision = PRECISIONS[setup.precision]
    shared, experts = model.held(setup.shared_by)
    tokens = setup.tokens * setup.update_freq
    flops = tokens * (1 + BACKWARD) * (model.other_flops + expert_flops(model, setup.shared_by))
    within, between = (setup.update_freq * part for part in exchange_bytes(model, setup, on))
    count = setup.update_freq * exchanges(model, setup)
    exchange_s = max(within / on.within_bytes_per_s, between / on.between_bytes_per_s) + count * on.latency_s
    hidden_s = _hidden(model, setup, on, exchange_s - count * on.latency_s)
    compute_s, adam_s = flops / on.flops_per_s, (shared + experts) * precision.adam_traffic / on.memory_bytes_per_s
    reduce_s = reduction_seconds(model, setup, on)
    seconds = compute_s + adam_s + exchange_s - hidden_s + reduce_s
    memory = memory_bytes(model, setup)
    total = sum(memory.values())
    updated = tokens * setup.ranks
    return Forecast(
        ranks=setup.ranks,
        expert_parallel_size=setup.shared_by,
        tokens_per_update=updated,
        update_freq=setup.update_freq,
        shared_parameters=shared,
        expert_parameters=experts,
        flops=flops,
        compute_s=compute_s,
        adam_s=adam_s,
        exchange_bytes_within=within,
        exchange_bytes_between=between,
        exchanges=count,
        exchange_s=exchange_s,
        hidden_s=hidden_s,
        reduce_bytes=sum(reduced_bytes(model, setup)),
        reduce_s=reduce_s,
        **memory,  # type: ignore[arg-type]
        memory_bytes=total,
        seconds=seconds,
        efficiency=compute_s / busy_share(model, setup.shared_by) / seconds,
        tokens_per_s=updated / seconds,
        does_not_fit=_too_much(total, on),
    )


def check(model: ModelFacts, setup: Setup) -> None:
    """UserError for ranks that cannot train so."""
    if setup.ranks % setup.shared_by:
        raise UserError(
            f"{setup.ranks} ranks are no multiple of task.expert_parallel_size={setup.shared_by}: they must divide"
        )
    if setup.shared_by > 1 and not model.expert_sets:
        raise UserError("task.expert_parallel_size: a dense model has no experts to share out; set it to 1")
    fewest = min((s.experts for s in model.expert_sets), default=setup.shared_by)
    if fewest < setup.shared_by:
        raise UserError(
            f"task.expert_parallel_size={setup.shared_by}: {fewest} experts cannot be spread over that many ranks, some would "
            f"have none; at most {fewest}"
        )


def expert_flops(model: ModelFacts, shared_by: int) -> float:
    """Of a forward pass, a token, on the rank whose experts are asked most."""
    return sum(max(sum(s.flops[rank::shared_by]) for rank in range(shared_by)) * shared_by for s in model.expert_sets)


def busy_share(model: ModelFacts, shared_by: int) -> float:
    """Compute of the busiest rank to the mean."""
    return (model.other_flops + expert_flops(model, shared_by)) / (model.other_flops + expert_flops(model, 1))


def exchanges(model: ModelFacts, setup: Setup) -> int:
    """All-to-alls of a batch: at each gate the words, then each part there and back, forward and backward."""
    if setup.shared_by == 1:
        return 0
    return sum(len(s.strata) for s in model.expert_sets) * (1 + TRIPS * setup.chunks)


def exchange_bytes(model: ModelFacts, setup: Setup, on: Hardware) -> tuple[float, float]:
    """Bytes that leave a rank in a batch: (to ranks of its machine, to others), where most go to others."""
    e, width = setup.shared_by, PRECISIONS[setup.precision].row
    if e == 1:
        return 0.0, 0.0
    words = WORD * (2 + max(s.most_experts(e) for s in model.expert_sets))
    one_rank = sum(
        TRIPS * setup.tokens * sum(s.rows) * s.row_dim * width / e + len(s.strata) * words for s in model.expert_sets
    )
    near = fewest_near(setup, on.devices_per_machine)
    return near * one_rank, (e - 1 - near) * one_rank


def fewest_near(setup: Setup, devices: int) -> int:
    """Of the others that share experts with a rank, those in its machine; of the rank that has the fewest."""

    def near(rank: int) -> int:
        group, machine = rank - rank % setup.shared_by, rank - rank % devices
        return min(group + setup.shared_by, machine + devices) - max(group, machine) - 1

    return min(near(rank) for rank in range(setup.ranks))


def reduced_bytes(model: ModelFacts, setup: Setup) -> tuple[float, float]:
    """Bytes that leave a rank in an update's reductions: (shared weights, over all ranks; experts, over the replicas)."""
    shared, experts = model.held(setup.shared_by)
    each = PRECISIONS[setup.precision].gradient
    replicas = setup.ranks // setup.shared_by
    return ring(setup.ranks) * shared * each, ring(replicas) * experts * each


def ring(ranks: int) -> float:
    """Bytes that leave a rank to those reduced."""
    return 2 * (ranks - 1) / ranks


def reduction_seconds(model: ModelFacts, setup: Setup, on: Hardware) -> float:
    """As rings over the slowest link on their way, one reduction after the other."""
    rate = on.within_bytes_per_s if setup.ranks <= on.devices_per_machine else on.between_bytes_per_s
    replicas = setup.ranks // setup.shared_by
    steps = 2 * (setup.ranks - 1)
    if setup.shared_by > 1 and replicas > 1:
        steps += (
            len(buckets(model.stacks_held(setup.shared_by), min(BUFFER, model.shared_parameters))) * 2 * (replicas - 1)
        )
    return sum(reduced_bytes(model, setup)) / rate + steps * on.latency_s


def _hidden(model: ModelFacts, setup: Setup, on: Hardware, travelling_s: float) -> float:
    """Seconds of exchanges that lie under computation."""
    share = (setup.chunks - 1) / setup.chunks
    tokens = setup.tokens * setup.update_freq
    computing_s = tokens * (1 + BACKWARD) * expert_flops(model, setup.shared_by) / on.flops_per_s
    return share * min(travelling_s, computing_s)


def memory_bytes(model: ModelFacts, setup: Setup) -> dict[str, float]:
    """Bytes that a rank holds, by what they are for."""
    precision = PRECISIONS[setup.precision]
    shared, experts = model.held(setup.shared_by)
    reduced_together = shared if setup.shared_by > 1 else shared + experts
    return {
        "weight_bytes": (shared + experts) * precision.weight,
        "gradient_bytes": (shared + experts) * precision.gradient,
        "optimizer_bytes": (shared + experts) * precision.optimizer,
        "buffer_bytes": min(BUFFER, reduced_together) * precision.gradient if setup.ranks > 1 else 0,
        "activation_bytes": activation_bytes(model, setup),
    }


def activation_bytes(model: ModelFacts, setup: Setup) -> float:
    """By the formula at the top, for one batch."""
    cfg, d, b = model.model.cfg, model.embed_dim, PRECISIONS[setup.precision].row
    numbers = 0.0
    for side, modules in (("encoder", 1), ("decoder", 2)):
        sizes, moe_layers = getattr(cfg, side), len(model.model.moe_layers[side])
        numbers += sizes.layers * modules * (10 * d + 2 * sizes.attention_heads * setup.length)
        numbers += (sizes.layers - moe_layers) * (3 * d + 2 * sizes.ffn_embed_dim)
        numbers += moe_layers * 3 * d + sum(d + 2 * units for units in shared_units_of(model.model)[side] if units)
    for experts in model.expert_sets:
        numbers += sum(rows * (units + 5 * experts.row_dim) for rows, units in zip(experts.rows, experts.units))
    return setup.tokens * (b * numbers + model.vocabulary * (b + 8))


def _too_much(held: float, on: Hardware) -> str:
    if held <= on.memory_bytes:
        return ""
    return f"{held / 1e9:.1f} GB in {on.memory_bytes / 1e9:.0f} GB of memory"


def update_freq(config: Any, ranks: int) -> int:
    """Batches of an update, as training sets them."""
    wanted: int = config.task.tokens_per_update
    if wanted:
        return update_freq_for(wanted, config.dataset.max_tokens, ranks)
    return int(config.optimization.update_freq[0])
