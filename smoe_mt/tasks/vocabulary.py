"""A fingerprint of the vocabulary, so that a checkpoint is never used with the data folder of another one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from smoe_mt.errors import UserError


@dataclass(frozen=True)
class Vocabulary:
    """What identifies a vocabulary: its entries in their order, and a name for people."""

    size: int
    sha256: str
    folder: str

    @classmethod
    def of(cls, dictionary: Any, folder: str) -> Vocabulary:
        """The fingerprint of a fairseq Dictionary; `folder` is the name of the data folder it came from."""
        digest = hashlib.sha256("\n".join(dictionary.symbols).encode("utf-8")).hexdigest()
        return cls(len(dictionary), digest, folder)

    def state(self) -> dict[str, Any]:
        """Plain values, for a checkpoint that loads with torch's weights_only."""
        return asdict(self)

    def check(self, state: Mapping[str, Any]) -> None:
        """UserError, naming both vocabularies, unless the checkpoint's `state` is of this one."""
        other = Vocabulary(int(state["size"]), str(state["sha256"]), str(state["folder"]))
        if (other.size, other.sha256) != (self.size, self.sha256):
            raise UserError(
                f"the checkpoint was trained with another vocabulary ({other}) than the data folder has ({self}); "
                "give the data folder it was trained with"
            )

    def __str__(self) -> str:
        return f"{self.folder}: {self.size:,} entries, {self.sha256[:8]}"
