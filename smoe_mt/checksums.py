"""SHA-256 of files and of JSON values, and JSON objects that hold their own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

OWN = "sha256"  # key of a JSON object's own checksum
BLOCK = 1 << 20


def sha256_file(path: Path, progress: Callable[[int], Any] = lambda _: None) -> str:
    """Hexadecimal SHA-256 of a file; `progress` is called with the number of bytes read."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
            progress(len(block))
    return digest.hexdigest()


def sha256_value(value: Any) -> str:
    """Hexadecimal SHA-256 of a JSON value, whatever the order of its keys and its white space."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with its own checksum, which `is_intact` compares."""
    plain = {key: one for key, one in value.items() if key != OWN}
    return {**plain, OWN: sha256_value(json.loads(json.dumps(plain)))}


def is_intact(value: Mapping[str, Any]) -> bool:
    """Whether a JSON object is what was sealed; one without a checksum of its own counts as intact."""
    if OWN not in value:
        return True
    return bool(value[OWN] == sha256_value({key: one for key, one in value.items() if key != OWN}))
