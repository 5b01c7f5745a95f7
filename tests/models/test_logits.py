"""Logits in memory that each batch uses again."""

from __future__ import annotations

import copy
import mmap
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from smoe_mt.models import SMoETransformerModel
from smoe_mt.models.logits import LogitsMemory


@settings(deadline=None, max_examples=10)
@given(
    shapes=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5)), min_size=1, max_size=4),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    transposed=st.booleans(),
)
def test_values_and_gradients_are_those_of_a_linear_layer(
    shapes: list[tuple[int, int]], dtype: torch.dtype, transposed: bool
) -> None:
    memory = LogitsMemory()
    weight = torch.randn(11, 6).to(dtype).requires_grad_()
    for B, T in shapes:
        features = (torch.randn(T, B, 6).transpose(0, 1) if transposed else torch.randn(B, T, 6)).to(dtype)
        features.requires_grad_()
        upstream = torch.randn(B, T, 11).to(dtype)
        found, wanted = memory.project(features, weight), F.linear(features, weight)
        torch.testing.assert_close(found, wanted)
        gradients = [torch.autograd.grad(logits, (features, weight), upstream) for logits in (found, wanted)]
        for one, other in zip(*gradients, strict=True):
            torch.testing.assert_close(one, other)


def test_autocast_decides_the_precision() -> None:
    features, weight = torch.randn(2, 3, 8, requires_grad=True), torch.randn(5, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        found, wanted = LogitsMemory().project(features, weight), F.linear(features, weight)
    assert found.dtype is wanted.dtype is torch.bfloat16
    torch.testing.assert_close(found, wanted)
    gradients = [torch.autograd.grad(logits.float().square().sum(), (features, weight)) for logits in (found, wanted)]
    for one, other in zip(*gradients, strict=True):
        assert one.dtype is torch.float32
        torch.testing.assert_close(one, other)


def test_a_smaller_batch_lies_where_the_larger_one_lay() -> None:
    memory, weight = LogitsMemory(), torch.randn(5, 8)
    large, small = (memory.project(torch.randn(rows, 8), weight) for rows in (9, 4))
    assert small.data_ptr() == large.data_ptr()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the size of a process is read from /proc")
def test_logits_of_many_sizes_take_the_memory_of_the_largest() -> None:
    def resident_mib() -> int:
        (size,) = re.findall(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
        return int(size) // 1024

    memory, weight = LogitsMemory(), torch.randn(8192, 1)
    memory.project(torch.randn(1024, 1), weight)  # 32 MiB
    before = resident_mib()
    for rows in (600, 1024, 800, 700, 900):
        memory.project(torch.randn(rows, 1), weight)
    assert resident_mib() - before < 16


@pytest.mark.parametrize("after_search", [False, True])
def test_two_passes_have_the_gradients_of_two_linear_layers(after_search: bool) -> None:
    memory, weight = LogitsMemory(), torch.randn(5, 8, requires_grad=True)
    if after_search:
        with torch.inference_mode():
            memory.project(torch.randn(20, 8), weight)
    batches = [torch.randn(rows, 8) for rows in (4, 9, 2)]
    passes = [[project(batch, weight).square().sum() for batch in batches] for project in (memory.project, F.linear)]
    found, wanted = (torch.autograd.grad(torch.stack(losses).sum(), weight) for losses in passes)
    torch.testing.assert_close(found, wanted)


def test_memory_is_used_again_once_the_graph_is_gone() -> None:
    memory, weight = LogitsMemory(), torch.randn(5, 8, requires_grad=True)
    logits = memory.project(torch.randn(9, 8), weight)
    place = logits.data_ptr()
    logits.sum().backward()
    assert memory.project(torch.randn(4, 8), weight).data_ptr() != place
    del logits
    assert memory.project(torch.randn(4, 8), weight).data_ptr() == place


@pytest.mark.parametrize("again", [copy.deepcopy, lambda memory: pickle.loads(pickle.dumps(memory))])
def test_a_copy_has_memory_of_its_own(again: Callable[[LogitsMemory], LogitsMemory]) -> None:
    memory, features, weight = LogitsMemory(), torch.randn(4, 8), torch.randn(5, 8)
    logits = memory.project(features, weight)
    wanted = logits.clone()
    again(memory).project(torch.randn(4, 8), weight)
    assert torch.equal(logits, wanted)


def test_a_kernel_without_large_pages_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class WithoutLargePages(mmap.mmap):
        def madvise(self, *_: int) -> None:
            raise OSError(22, "Invalid argument")

    monkeypatch.setattr(mmap, "mmap", WithoutLargePages)
    features, weight = torch.randn(4, 8), torch.randn(5, 8)
    torch.testing.assert_close(LogitsMemory().project(features, weight), F.linear(features, weight))


def test_a_model_that_is_told_to_gives_the_same(
    make_model: Callable[..., SMoETransformerModel], net_input: dict[str, Tensor]
) -> None:
    model = make_model().eval()
    with torch.no_grad():
        wanted = model(**net_input)[0].clone()
        model.reuse_memory_of_logits()
        found = model(**net_input)[0]
        assert torch.equal(found, wanted)
        again = model(**net_input)[0]
    assert again.data_ptr() == found.data_ptr()
