from __future__ import annotations

import warnings

from smoe_mt.fairseq_patches.known_warnings import suppress_known_warnings


def test_only_the_known_noise_is_hushed() -> None:
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        suppress_known_warnings()
        warnings.warn("'pin_memory' argument is set as true but no accelerator is found, then ...", stacklevel=1)
        warnings.warn("\n'config' is validated against ConfigStore schema with the same name.", stacklevel=1)
        warnings.warn("your disk is nearly full", stacklevel=1)
    assert [str(warning.message) for warning in heard] == ["your disk is nearly full"]
