"""How a training is started."""

from __future__ import annotations

import pytest

from smoe_mt.launch import CONSOLE, compose, console
from smoe_mt.paths import configs


@pytest.mark.parametrize(
    ("overrides", "replaced"),
    [
        ([], True),
        (["hydra/job_logging=stdout"], True),
        (["hydra/job_logging=none"], False),
        ([f"{CONSOLE}=logging.NullHandler"], False),
    ],
)
def test_the_console_is_ours_where_no_config_logs_in_its_own_way(overrides: list[str], replaced: bool) -> None:
    assert bool(console(compose(configs(), "quickstart", overrides))) is replaced
