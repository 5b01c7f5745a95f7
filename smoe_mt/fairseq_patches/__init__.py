"""All of the shims around fairseq together."""

from __future__ import annotations

from smoe_mt.fairseq_patches import errors, known_warnings, progress_bar
from smoe_mt.tasks import lookahead
from smoe_mt.training import launch_ranks, safe_loading, saving, trainer


def put_shims_in_place() -> None:
    """All of them; called when the plugin is imported. Doing it again changes nothing."""
    errors.install()
    progress_bar.shorten_text_log()
    launch_ranks.put_in_place()
    trainer.put_in_place()
    lookahead.put_in_place()
    saving.put_in_place()
    known_warnings.hush()
    safe_loading.put_in_place()
