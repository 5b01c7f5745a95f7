"""smoe_mt: stratified mixture-of-experts translation as a fairseq plugin (``--user-dir``).

Importing the package registers its task, model and criterion with fairseq.
"""

from __future__ import annotations

import argparse

import torch

from smoe_mt import criterions, models

__version__ = "0.1.0"
__all__ = ["__version__", "criterions", "models"]

# fairseq keeps an argparse.Namespace in its checkpoints, and torch's safe loading (weights_only) wants it named.
torch.serialization.add_safe_globals([argparse.Namespace])
