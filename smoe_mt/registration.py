"""Registers the plugin with fairseq, only when asked."""

from __future__ import annotations

from smoe_mt.lean_fairseq import import_fairseq


def register() -> None:
    """Register task, model, criterion and optimiser with fairseq, and apply `fairseq_patches`. Doing it again changes nothing."""
    import_fairseq()
    from smoe_mt import criterions, fairseq_patches, models
    from smoe_mt.tasks import many_to_many_translation
    from smoe_mt.training import fused_adam

    assert (
        criterions and models and many_to_many_translation and fused_adam
    )  # each registers its classes where it is imported
    fairseq_patches.apply()
