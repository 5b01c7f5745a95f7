"""Sentences chosen for one pass over the data, as arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Draws:
    """n sentences with their lengths as the model sees them: source with tag and </s>, target with </s>."""

    indices: np.ndarray  # int64[n], places in the dataset
    source_lengths: np.ndarray  # int32[n]
    target_lengths: np.ndarray  # int32[n]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, chosen: np.ndarray) -> Draws:
        """Those of a bool[n], or in the order of an int[m]."""
        return Draws(self.indices[chosen], self.source_lengths[chosen], self.target_lengths[chosen])

    @property
    def costs(self) -> np.ndarray:
        """int64[n]: the longer side, which decides what a sentence costs in a padded batch."""
        return np.maximum(self.source_lengths, self.target_lengths).astype(np.int64)

    def by_length(self) -> Draws:
        """Sorted by source length, then target length; draws of equal lengths keep their order."""
        return self[np.lexsort((self.target_lengths, self.source_lengths))]

    def fitting(self, longest_source: int, longest_target: int) -> np.ndarray:
        """bool[n]: those within the given lengths."""
        return (self.source_lengths <= longest_source) & (self.target_lengths <= longest_target)
