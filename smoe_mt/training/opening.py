"""What a training is, in ten lines for people; its whole configuration and the module tree are in the log file."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from smoe_mt.models.sizes import activated_parameters, count_parameters
from smoe_mt.moe.names import blocks_of
from smoe_mt.text_table import aligned

MOST = 8  # directions that are named


def opening(cfg: Any, task: Any, model: Any, updates: int) -> str:
    """The lines. `model` with all of its blocks; `updates`: those that a checkpoint had made already."""
    rows = [
        ("data", _data(cfg, task)),
        *(
            ("validation", f"{len(data):,} sentence pairs ({name})")
            for name, data in task.datasets.items()
            if name != "train"
        ),
        ("model", _model(cfg, model)),
        ("parameters", _parameters(model)),
        *_blocks(model),
        ("batch", _batch(cfg)),
        ("updates", _updates(cfg, updates)),
        ("schedule", _schedule(cfg)),
        ("computed in", _precision(cfg)),
        ("folder", f"{cfg.checkpoint.save_dir}{_log_file()}"),
        ("start", _start(cfg, updates)),
    ]
    return "\n".join(aligned(rows, left=(0, 1)))


def _data(cfg: Any, task: Any) -> str:
    texts = task.datasets["train"].texts
    named = ", ".join(f"{text.name} {len(text):,}" for text in texts[:MOST])
    more = f", {len(texts) - MOST} more" if len(texts) > MOST else ""
    pairs = sum(map(len, texts))
    return (
        f"{cfg.task.data}: {pairs:,} sentence pairs in {len(texts)} direction{'s' * (len(texts) != 1)} ({named}{more})"
    )


def _model(cfg: Any, model: Any) -> str:
    sizes = cfg.model
    kind = getattr(model, "system", None)
    groups = _groups(model)
    title = kind.title_in_figures(groups[0]) if kind is not None and groups else "dense"
    return (
        f"{title}, {sizes.encoder_layers} + {sizes.decoder_layers} layers, d {sizes.encoder_embed_dim}, "
        f"FFN {sizes.encoder_ffn_embed_dim}"
    )


def _groups(model: Any) -> list[tuple[int, ...]]:
    groups: Mapping[str, Sequence[tuple[int, ...]]] = getattr(model.cfg, "groups", {})
    return [each for side in ("encoder", "decoder") for each in groups.get(side, ())]


def _parameters(model: Any) -> str:
    total, experts = count_parameters(model)
    if not experts:
        return f"{total:,}"
    return f"{total:,}, of which {experts:,} are experts'; about {activated_parameters(model):,} process a token"


def _blocks(model: Any) -> list[tuple[str, str]]:
    blocks, groups = blocks_of(model), _groups(model)
    if not blocks:
        return []
    by_group: dict[tuple[int, ...], list[str]] = {}
    for block, group in zip(blocks, groups, strict=True):
        by_group.setdefault(group, []).append(str(block))
    kind = model.system.experts_setting if model.system else "experts"
    word = "experts" if kind == "num_experts" else kind
    parts = [f"{'-'.join(map(str, group))} in {', '.join(names)}" for group, names in by_group.items()]
    return [(word, "; ".join(parts))]


def _batch(cfg: Any) -> str:
    ranks, freq = cfg.distributed_training.distributed_world_size, list(cfg.optimization.update_freq)
    most = getattr(cfg.task, "batch_shapes", 0)
    shapes = f", of at most {most} shape{'s' * (most != 1)}" if most else ""
    if not cfg.dataset.max_tokens:
        return f"{cfg.dataset.batch_size:,} sentences x ranks {ranks} x update_freq {freq[0]}{shapes}"
    tokens = cfg.dataset.max_tokens * ranks * freq[0]
    parts = f"max_tokens {cfg.dataset.max_tokens:,} x ranks {ranks} x update_freq {freq[0]}"
    return f"up to {tokens:,} tokens an update ({parts}){shapes}"


def _updates(cfg: Any, updates: int) -> str:
    last, epochs = cfg.optimization.max_update, cfg.optimization.max_epoch
    limits = [f"{last:,}"] * (last > 0) + [f"{epochs} epoch{'s' * (epochs != 1)}"] * (epochs > 0)
    end = " or ".join(limits) + ", whichever ends first" * (len(limits) > 1) if limits else "no limit"
    return f"{end}; {updates:,} are made" if updates else end


def _schedule(cfg: Any) -> str:
    schedule = cfg.lr_scheduler
    warmup = getattr(schedule, "warmup_updates", 0)
    begin = f", {warmup:,} updates of warm-up" if warmup else ""
    rates = ", ".join(f"{rate:g}" for rate in cfg.optimization.lr)
    return f"{getattr(schedule, '_name', 'fixed')}, learning rate {rates}{begin}"


def _precision(cfg: Any) -> str:
    on_gpu = torch.cuda.is_available() and not cfg.common.cpu
    half = next((name for name in ("bf16", "fp16", "amp") if getattr(cfg.common, name)), "float32")
    if on_gpu:
        return f"{half}, on {torch.cuda.get_device_name()}"
    on_cpu = getattr(cfg.model, "cpu_bf16", "off")
    bf16 = "" if on_cpu == "off" else f" (cpu_bf16={on_cpu})"
    return f"{half}{bf16}, on the CPU with {torch.get_num_threads()} thread{'s' * (torch.get_num_threads() != 1)}"


def _log_file() -> str:
    files = [each.baseFilename for each in logging.getLogger().handlers if isinstance(each, logging.FileHandler)]
    return f" (log: {files[0]})" if files else ""


def _start(cfg: Any, updates: int) -> str:
    if updates:
        return f"goes on after {updates:,} updates"
    given = cfg.checkpoint.finetune_from_model or getattr(cfg.model, "init_experts_from", None)
    return f"from the weights of {given}" if given else "from random weights"
