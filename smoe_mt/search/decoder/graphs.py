"""A step of a prepared decoder captured once and replayed: on a GPU one launch from the host instead of hundreds.

A captured step reads and writes tensors that stay where they are, so their shapes are those of a bucket: sentences, room for steps
and source tokens, each rounded up to a power of two. A search moves to a larger bucket when its room is full, and to a smaller one
when most of its sentences have ended. Each routing of the model has captured steps of its own, so the two passes of a contrast are
both replayed. How a step is captured is behind ``Recorder``.

Shape letters as in ``caches.py``.
"""

from __future__ import annotations

import logging
import math
import weakref
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from smoe_mt.cuda_recorder import Recorder
from smoe_mt.errors import first_sentence
from smoe_mt.moe.routers.override import RoutingInForce, routing_in_force
from smoe_mt.read_backs import ReadBacks
from smoe_mt.search.decoder.caches import Caches, Contents, Sources

logger = logging.getLogger(__name__)
LEAST = 32  # steps there is room for, and source tokens, of the smallest bucket
MOST_BUCKETS = 8  # steps that are kept; each has caches of its own
WARM_UPS = 2  # passes in which kernels are compiled and chosen; the last one is watched


class Bucket(NamedTuple):
    """Shapes of a captured step: those of ``Contents``, and the room for steps."""

    sentences: int
    beam: int
    room: int
    source: int

    @staticmethod
    def for_next(contents: Contents) -> Bucket:
        """The smallest that holds one step more."""
        _, _, sentences, _, source, _ = contents.sources.pairs.shape
        sizes = (sentences, max(contents.steps + 1, LEAST), max(source, LEAST))
        sentences, room, source = (1 << (size - 1).bit_length() for size in sizes)
        return Bucket(sentences, contents.beam, room, source)


class StaticCaches:
    """As ``Caches``, in tensors that stay where they are, with the step's number on the device.

    A step reads ``tokens`` [B * K], the last tokens, and ``order`` [B, K], the beam that each beam goes on from.
    """

    def __init__(self, bucket: Bucket, like: Contents) -> None:
        layers, _, _, heads, _, size = like.sources.pairs.shape
        sentences, beam, room, source = bucket
        of, device = like.sources.pairs, like.sources.pairs.device
        self.beam = beam
        self.sources = Sources(
            of.new_zeros(layers, 2, sentences, heads, source, size), of.new_zeros(sentences, 1, 1, source)
        )
        self.pairs = of.new_zeros(layers, 2, sentences, heads, room * beam, size)
        self.mask = of.new_zeros(sentences, 1, beam, room * beam)
        self.tokens = torch.zeros(sentences * beam, dtype=torch.long, device=device)
        self._identity = torch.arange(beam, device=device).repeat(sentences, 1)
        self.order = self._identity.clone()
        self._number = torch.zeros(1, dtype=torch.long, device=device)
        self._places = torch.zeros(beam, dtype=torch.long, device=device)
        own = of.new_full((beam, beam), -math.inf).fill_diagonal_(0.0)
        self._own = own.repeat(sentences, 1, 1, 1)
        self._layers = self.pairs.unbind()

    def load(self, contents: Contents) -> None:
        """Take over what another search state has cached. Of what there is not, keys are 0, for masked they must be finite."""
        sources, mask = contents.sources, self.sources.mask
        assert mask is not None
        b, s, filled = sources.pairs.size(2), sources.pairs.size(4), contents.pairs.size(4)
        self.sources.pairs.zero_()[:, :, :b, :, :s].copy_(sources.pairs)
        mask.zero_()[:b].fill_(-math.inf)
        mask[:b, :, :, :s] = 0.0 if sources.mask is None else sources.mask
        self.pairs.zero_()[:, :, :b, :, :filled].copy_(contents.pairs)
        self.mask.fill_(-math.inf)[:b, :, :, :filled].copy_(contents.mask)
        self.order.copy_(self._identity)
        self._number.fill_(contents.steps - 1)
        self._places.copy_((contents.steps - 1) * self.beam + self._identity[0])

    def contents(self, sentences: Tensor, steps: int) -> Contents:
        """Of some sentences, after so many steps and the last change of places."""
        filled = steps * self.beam
        mask = self._reordered().index_select(0, sentences)[:, :, :, :filled]
        pairs = self.pairs[:, :, :, :, :filled].index_select(2, sentences)
        return Contents(self.sources.select(sentences), pairs, mask, self.beam)

    def _reordered(self) -> Tensor:
        return self.mask.gather(2, self.order[:, None, :, None].expand(self.mask.shape))

    # --- what a step asks for ---

    def next_step(self) -> None:
        """Let beams change places, and each attend to itself."""
        self._number.add_(1)
        self._places.add_(self.beam)
        self.mask.copy_(self._reordered())
        self.mask.index_copy_(3, self._places, self._own)
        self.order.copy_(self._identity)

    def position(self, positions_PD: Tensor) -> Tensor:
        """Of this step's tokens; [1, D]."""
        return positions_PD.index_select(0, self._number)

    def write(self, layer: int, pair: Tensor) -> tuple[Tensor, Tensor]:
        """Add this step's keys and values, [2, B, H, K, d]; returns those of all steps there is room for."""
        pairs = self._layers[layer]
        pairs.index_copy_(3, self._places, pair)
        keys, values = pairs.unbind()
        return keys, values


#: Logits [R, V] after one more token of each row, int64 [R].
Step = Callable[[Tensor, Caches | StaticCaches], Tensor]


class CapturedStep:
    """The step of one bucket under the routing that is in force, and which search uses it.

    Raises:
        RuntimeError: a step that cannot be captured: it reads values back, or memory runs out.
    """

    def __init__(self, step: Step, bucket: Bucket, like: Contents, recorder: Recorder) -> None:
        self.bucket = bucket
        self.routing = routing_in_force()
        self.caches = StaticCaches(bucket, like)
        self.user: weakref.ref[CapturedSearch] | None = None

        def compute() -> Sequence[Tensor]:
            return (step(self.caches.tokens, self.caches),)

        for _ in range(WARM_UPS):
            self.caches.load(like)
            with ReadBacks(recorder.device) as read:
                compute()
        if read.found:
            raise RuntimeError(f"a step reads back from the device ({read.found[0]})")
        self.caches.load(like)
        (self.logits,), self.replay = recorder.capture(compute)

    @property
    def in_use(self) -> bool:
        return self.user is not None and self.user() is not None


class CapturedSteps:
    """The captured steps of a decoder: made when first needed, the last few kept."""

    def __init__(self, step: Step, recorder: Recorder) -> None:
        self.step = step
        self.recorder = recorder
        self.refused: list[RoutingInForce] = []  # routings whose step cannot be captured
        self._kept: list[CapturedStep] = []  # the last one used comes last

    def step_for(self, contents: Contents, user: CapturedSearch) -> CapturedStep | None:
        """A step that holds ``contents``, loaded; None where there is none, of which a line says why, once.

        A captured step serves one search at a time.
        """
        bucket, routing = Bucket.for_next(contents), routing_in_force()
        if routing in self.refused:
            return None
        known = [step for step in self._kept if step.bucket == bucket and step.routing == routing]
        found = known[0] if known else self._captured(bucket, contents)
        if found is None or found.in_use:
            return None
        self._kept = [step for step in self._kept if step is not found] + [found]
        found.user = weakref.ref(user)
        found.caches.load(contents)
        return found

    def _captured(self, bucket: Bucket, contents: Contents) -> CapturedStep | None:
        unused = [step for step in self._kept if not step.in_use]
        for oldest in unused[: max(len(self._kept) - MOST_BUCKETS + 1, 0)]:
            self._kept.remove(oldest)
        try:
            return CapturedStep(self.step, bucket, contents, self.recorder)
        except RuntimeError as error:
            if not self.refused:
                reason = first_sentence(error)
                logger.warning("the steps of a search are not captured, so the host launches each kernel: %s", reason)
            self.refused.append(routing_in_force())
            return None


class CapturedSearch:
    """The state of one search whose steps are captured where they can be; as ``Caches`` to a scorer.

    Where a step is computed is decided as it is asked for, for that is when its routing is in force.
    """

    def __init__(self, steps: CapturedSteps, contents: Contents) -> None:
        self._steps = steps
        self.sources, self.beam = contents.sources, contents.beam
        self._go_on_from(contents)

    def _go_on_from(self, contents: Contents) -> None:
        self.steps, self.sentences = contents.steps, contents.sources.pairs.size(2)
        self._step: CapturedStep | None = None
        self._eager: Caches | None = Caches(contents)
        self._decided = False

    @property
    def rows(self) -> int:
        """B * K."""
        return self.sentences * self.beam

    def advance(self, tokens_R: Tensor) -> Tensor:
        """Logits after one more token of each row; they are overwritten at the next step of any search with this decoder."""
        if self._step is not None and (
            self.steps == self._step.bucket.room or self._step.routing != routing_in_force()
        ):
            self._leave(torch.arange(self.sentences, device=tokens_R.device))
        if not self._decided:
            self._decide()
        self.steps += 1
        if self._step is None:
            assert self._eager is not None
            return self._steps.step(tokens_R, self._eager)
        self._step.caches.tokens[: self.rows].copy_(tokens_R)
        self._step.replay()
        return self._step.logits[: self.rows]

    def reorder(self, beam_BK: Tensor) -> None:
        """Beam k goes on from beam ``beam_BK[:, k]`` of its sentence."""
        if self._step is None:
            assert self._eager is not None
            self._eager.reorder(beam_BK)
        else:
            self._step.caches.order[: self.sentences].copy_(beam_BK)

    def select(self, sentences: Tensor) -> None:
        """Go on with some sentences alone."""
        if self._step is None:
            assert self._eager is not None
            self._eager.select(sentences)
            self.sentences = len(sentences)
        else:
            self._leave(sentences)

    def _decide(self) -> None:
        """Whether the next steps are captured ones."""
        assert self._eager is not None
        self._step = self._steps.step_for(self._eager.contents, self)
        self._eager = None if self._step is not None else self._eager
        self._decided = True

    def _leave(self, sentences: Tensor) -> None:
        """Go on in another bucket."""
        assert self._step is not None
        contents = self._step.caches.contents(sentences, self.steps)
        self._step.user = None
        self._go_on_from(contents)
