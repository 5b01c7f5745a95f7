from __future__ import annotations

import torch

from smoe_mt.training.packed import Packing


def test_what_is_unpacked_is_a_copy_of_what_was_packed() -> None:
    named = {
        "a": torch.tensor(1.5),
        "b": torch.tensor([1, 2]),
        "c": torch.tensor(7),
        "d": torch.tensor([3, 4, 5]),
        "e": torch.tensor(2.5, requires_grad=True),
        "f": torch.tensor([0.5], dtype=torch.float64),
    }
    packing = Packing(named)
    packed = packing.pack(named)
    assert len(packed) == 4 and not any(tensor.requires_grad for tensor in packed)
    found = packing.unpack(packed)
    for tensor in packed:
        tensor.zero_()
    assert found.keys() == named.keys()
    for name, tensor in named.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor)
