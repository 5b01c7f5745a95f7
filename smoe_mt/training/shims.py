"""All of the shims around fairseq together."""

from __future__ import annotations

from smoe_mt.training import (
    errors_at_the_door,
    flags_at_the_door,
    launch_ranks,
    open_ended,
    progress,
    quiet,
    safe_loading,
    saving,
    trainer,
)


def put_shims_in_place() -> None:
    """All of them; called when the plugin is imported. Doing it again changes nothing."""
    errors_at_the_door.install()
    flags_at_the_door.put_in_place()
    progress.shorten_text_log()
    launch_ranks.put_in_place()
    trainer.put_in_place()
    open_ended.put_in_place()
    saving.put_in_place()
    quiet.hush()
    safe_loading.put_in_place()
