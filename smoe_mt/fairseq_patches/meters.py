"""fairseq's meters are brought up to date before they are read or saved: the metrics of training wait for that."""

from __future__ import annotations

from functools import wraps
from typing import Any

from smoe_mt.fairseq_patches.patch import Patch
from smoe_mt.training.deferred_metrics import flush_latest


def after_flush(original: Any) -> Any:
    """The function, of meters that know of all updates."""

    @wraps(original)
    def read(*args: Any, **kwargs: Any) -> Any:
        flush_latest()
        return original(*args, **kwargs)

    return read


METRICS = "fairseq.logging.metrics"
PATCHES = (
    Patch(
        f"{METRICS}.get_smoothed_values",
        after_flush,
        "read once per log interval and at an epoch's end: only then does the host wait for the device's sums",
        ("name",),
    ),
    Patch(f"{METRICS}.state_dict", after_flush, "a checkpoint keeps the meters", ()),
)
