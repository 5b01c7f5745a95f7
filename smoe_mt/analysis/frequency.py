"""How frequent each token is in a language's training text: rank 1 is the most frequent."""

from __future__ import annotations

from typing import Any

import numpy as np

from smoe_mt.progress import progress_bar
from smoe_mt.tasks.token_file import TokenFile

TRAINING = "train"


class FrequencyRanks:
    """Ranks by language, counted over all pairs of the language in the training text's binarised files.

    Where a language has no training text here, its text in `split` (the one that is analysed) is counted instead;
    `counted` says for each language which it was.
    """

    def __init__(self, task: Any, split: str) -> None:
        self.task = task
        self.split = split
        self.counted: dict[str, str] = {}
        self._ranks: dict[str, np.ndarray] = {}

    def of(self, language: str) -> np.ndarray:
        """int64 [V]: 1 + the number of dictionary entries that are more frequent; counted once, then remembered.

        Raises UserError for a binarised file that is not whole.
        """
        if language not in self._ranks:
            self._ranks[language] = ranks(self._count(language))
        return self._ranks[language]

    def _count(self, language: str) -> np.ndarray:
        files = self._files(TRAINING, language)
        self.counted[language] = TRAINING if files else self.split
        counts = np.zeros(len(self.task.dictionary), dtype=np.int64)
        files = files or self._files(self.split, language)
        with progress_bar(sum(map(len, files)), f"token frequencies: {language}") as bar:
            for file in files:
                for lines, tokens in file.chunks():
                    counts += np.bincount(tokens, minlength=len(counts))
                    bar.update(lines)
        return counts

    def _files(self, split: str, language: str) -> list[TokenFile]:
        folder = self.task.folder
        pairs = [pair for pair in folder.pairs if language in pair.split("-") and folder.has(split, pair)]
        prefixes = [folder.prefix(split, pair, language) for pair in pairs]
        if split == TRAINING and not all(prefix.with_name(f"{prefix.name}.bin").is_file() for prefix in prefixes):
            return []  # a folder that was handed on without its training text
        folder.verify_text(split, pairs)
        return [folder.open_text(split, pair, language) for pair in pairs]


def ranks(counts: np.ndarray) -> np.ndarray:
    """1 + the number of larger counts, so that equally frequent tokens share a rank; int64, shape of `counts`."""
    falling = np.sort(-counts)
    return np.searchsorted(falling, -counts, side="left") + 1
