"""Settings of fairseq's transformer, to convert it: the few that are needed, each checked. No model is built from them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smoe_mt.checkpoints.settings import NAME, Budget, Settings, as_dict
from smoe_mt.errors import UserError
from smoe_mt.ranges import MODEL, Range, kinds_of, problem, shown

#: fairseq's and the released code's names of a transformer for translation, none of which is built by its name.
TRANSFORMER = re.compile(r"(multilingual_)?transformer\w{0,80}")
SIDES = ("encoder", "decoder")
#: Settings of fairseq's transformer that ours has not.
NOT_OURS = (
    *(f"{side}_learned_pos" for side in SIDES),
    *("layernorm_embedding", "no_scale_embedding", "no_token_positional_embeddings", "no_cross_attention"),
    *("cross_self_attention", "adaptive_input", "no_decoder_final_norm", "adaptive_softmax_cutoff"),
)
TASK_OF_TRANSFORMER = ("data", "langs", "lang_dict", "lang_pairs", "lang_tok_style")


def transformer_settings(state: Mapping[str, Any], path: Path) -> dict[str, Settings]:
    """What converting needs of the settings of fairseq's transformer, checked, as sections model and task.

    Of checkpoints from before fairseq had ``cfg`` they are in ``args``; those of the model then have the task's in them. Raises
    UserError for another kind of model. What converting does not need is left out: no model is built from it.
    """
    config = state.get("cfg")
    if isinstance(config, Mapping):
        model, task = (as_dict(config.get(name)) for name in ("model", "task"))
        task_name = task.get("_name")
    else:
        model = task = as_dict(state.get("args"))
        task_name = task.get("task")
    name = model.get("_name") or model.get("arch")
    if name is not None and not (isinstance(name, str) and TRANSFORMER.fullmatch(name)):
        raise UserError(
            f"{path}: a model {shown(name)[:60]}, and of fairseq's models only the transformer for translation is read"
        )
    found = {"_name": name} if name else {}
    for key, kind, allowed in _wanted_of_transformer():
        value = model.get(key)
        wrong = problem(kind, value, allowed) if value is not None else None
        if wrong:
            raise UserError(f"{path}: model.{key} {wrong}; take another checkpoint")
        if value is not None:
            found[key] = value
    budget = Budget(path)
    told = {key: budget.plain(value, f"model.{key}") for key in NOT_OURS if (value := model.get(key)) is not None}
    chosen = {}
    for key in TASK_OF_TRANSFORMER:
        value = budget.plain(task.get(key, model.get(key)), f"task.{key}")
        if value is not None and problem(list[str] if isinstance(value, list) else str, value):
            raise UserError(f"{path}: task.{key} must be text, or a list of it; take another checkpoint")
        if value is not None:
            chosen[key] = value
    named = {"_name": task_name} if isinstance(task_name, str) and NAME.fullmatch(task_name) else {}
    return {"model": found | told, "task": named | chosen}


def _wanted_of_transformer() -> list[tuple[str, Any, Range | None]]:
    from smoe_mt.models.config import SMoETransformerConfig

    kinds = kinds_of(SMoETransformerConfig)
    names = [f"{side}_{size}" for side in SIDES for size in ("embed_dim", "ffn_embed_dim", "layers", "attention_heads")]
    names += [*(f"{side}_normalize_before" for side in SIDES), "share_all_embeddings", "activation_fn"]
    names += ["dropout", "attention_dropout", "activation_dropout", "max_source_positions", "max_target_positions"]
    theirs = [("moe_top1_expert", bool, None), ("moe_eom", float, Range(0, 1))]
    return [*((name, kinds[name], MODEL.get(name)) for name in names), *theirs]
