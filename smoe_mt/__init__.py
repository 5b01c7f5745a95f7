"""smoe_mt: stratified mixture-of-experts translation models, as a fairseq plugin (``--user-dir``).

``smoe_mt.moe`` needs torch alone, so importing the package brings fairseq only where it is already at work.
"""

from __future__ import annotations

import importlib
import sys

__version__ = "0.1.0"


def register() -> None:
    """Register task, model and criterion with fairseq; doing it again changes nothing."""
    for room in ("tasks", "models", "criterions"):
        importlib.import_module(f"smoe_mt.{room}")


if "fairseq" in sys.modules:
    register()
