"""Which sentences of a pass are batched together, and what is left out as too long."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import numpy as np
from fairseq.data.data_utils_fast import batch_by_size_vec

from smoe_mt.errors import UserError
from smoe_mt.tasks.dataset import ManyToManyDataset
from smoe_mt.tasks.draws import Draws
from smoe_mt.tasks.shapes import BatchShape, choose_shapes, pack_into, padding_share

logger = logging.getLogger(__name__)

Batches = list[np.ndarray]  # of int64[sentences], places in the dataset


@dataclass(frozen=True)
class BatchLimits:
    """What bounds a batch. Lengths count the tag and </s>."""

    #: Sentences x longest side of a batch; None = no limit.
    max_tokens: int | None
    max_sentences: int | None
    longest_source: int
    longest_target: int
    #: A batch of more sentences than this has a multiple of them.
    multiple: int = 1
    #: Whether sentences that are too long are skipped (and counted in the log) or are a UserError.
    skip_long: bool = True
    #: What batches are padded to, narrowest first; none: each to its longest sentences.
    shapes: tuple[BatchShape, ...] = ()

    def with_shapes(self, dataset: ManyToManyDataset, most: int) -> BatchLimits:
        """These limits with at most `most` shapes, which follow from the dataset's text and sampling alone. Says which."""
        shapes = choose_shapes(dataset.lengths, self._longest, most, self._rows)
        limits = replace(self, shapes=shapes)
        draws = dataset.draws(1, 0)
        draws = draws[draws.fitting(*self._longest)]
        if len(draws):
            padding, without = (padding_share(draws, each.pack(draws), each.shapes) for each in (limits, self))
            logger.info(
                f"batches have {len(shapes)} shapes (rows x source x target: {', '.join(map(str, shapes))}); "
                f"{padding:.1%} of their positions are padding, {without:.1%} without shapes"
            )
        return limits

    def batches(self, dataset: ManyToManyDataset, epoch: int, window: int) -> Batches:
        """The batches of a window of an epoch, shortest first; they follow from the dataset's seed, epoch and window alone."""
        draws = self._short_enough(dataset, dataset.draws(epoch, window), epoch, window)
        # Those to be translated in validation come together in batches, for decoding is what costs there.
        decoded = dataset.is_decoded(draws)
        groups = [draws[decoded], draws[~decoded]] if decoded.any() else [draws]
        return [batch for group in groups if len(group) for batch in self.pack(group)]

    def pack(self, draws: Draws) -> Batches:
        """Batches of sentences of similar length; every draw is in one.

        (fairseq's `batch_by_size` drops a last batch that is no multiple of 8, which in evaluation loses sentences.)
        """
        if self.shapes:
            return pack_into(draws, self.shapes)
        draws = draws.by_length()
        return batch_by_size_vec(
            draws.indices, draws.costs, self.max_tokens or -1, self.max_sentences or -1, self.multiple
        )

    @property
    def _longest(self) -> tuple[int, int]:
        """Source and target length of what is not too long."""
        bound = self.max_tokens or max(self.longest_source, self.longest_target)
        return min(self.longest_source, bound), min(self.longest_target, bound)

    def _rows(self, longest: int) -> int:
        """Most sentences of a batch whose longer side has this length."""
        bounds = [self.max_tokens // longest if self.max_tokens else UNLIMITED, self.max_sentences or UNLIMITED]
        rows = min(bounds)
        return rows - rows % self.multiple if rows > self.multiple else rows

    def _short_enough(self, dataset: ManyToManyDataset, draws: Draws, epoch: int, window: int) -> Draws:
        source, target = self._longest
        fits = draws.fitting(source, target)
        if fits.all():
            return draws
        limits = f"{source} source or {target} target tokens"
        if not self.skip_long:
            text, line = dataset.locate(int(draws.indices[~fits][0]))
            raise UserError(
                f"sentence {line + 1} of {text.source.prefix.name} ({text.name}) is longer than {limits}: raise "
                "--max-tokens or the positions, or give --skip-invalid-size-inputs-valid-test"
            )
        if window == 0:  # the others are like it, and a hundred million sentences have hundreds
            part = f" of the first of {dataset.windows} windows" if dataset.windows > 1 else ""
            skipped = f"{(~fits).sum():,} of {len(draws):,} sentences{part}"
            logger.warning(f"epoch {epoch}: skips {skipped}, longer than {limits}")
        if not fits.any():
            raise UserError(
                f"all {len(draws):,} sentences are longer than {limits}: raise --max-tokens or the positions"
            )
        return draws[fits]


def limits_from_fairseq(settings: dict[str, object], skip_long: bool) -> BatchLimits:
    """The limits among the keyword arguments of fairseq's `get_batch_iterator`."""
    positions = settings.get("max_positions")
    longest = positions if isinstance(positions, tuple | list) else (positions, positions)
    return BatchLimits(
        max_tokens=_int_or_none(settings.get("max_tokens")),
        max_sentences=_int_or_none(settings.get("max_sentences")),
        longest_source=_int_or_none(longest[0]) or UNLIMITED,
        longest_target=_int_or_none(longest[1]) or UNLIMITED,
        multiple=_int_or_none(settings.get("required_batch_size_multiple")) or 1,
        skip_long=skip_long or bool(settings.get("ignore_invalid_inputs")),
    )


UNLIMITED = 2**31 - 1


def _int_or_none(value: object) -> int | None:
    return None if value is None else int(value)  # type: ignore[call-overload, no-any-return]
