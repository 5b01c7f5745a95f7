"""Which settings of a checkpoint's model are others than those of the model that is to be trained from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor

from smoe_mt.models.config import SMoETransformerConfig
from smoe_mt.models.meaning import meaning

#: Settings that tensors have their shapes from, and the heads, which no shape shows: other ones would read the same weights
#: as those of other heads.
SIZES = (
    *(f"{side}_{size}" for side in ("encoder", "decoder") for size in ("embed_dim", "ffn_embed_dim", "layers")),
    "share_all_embeddings",
    "moe_freq",
    "shared_experts",
)
HEADS = ("encoder_attention_heads", "decoder_attention_heads")
MOST_SHOWN = 4


def differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Name of a setting -> (theirs, ours) where two models differ in what their weights mean; settings of `smoe_transformer`."""
    # A configuration of fairseq-hydra-train has what was given alone.
    defaults = asdict(SMoETransformerConfig())
    first, second = (
        {name: str(model[name]) for name in (*SIZES, *HEADS)} | meaning(model)
        for model in ({**defaults, **theirs}, {**defaults, **ours})
    )
    names = [*dict.fromkeys((*first, *second))]
    if not {first["moe"], second["moe"]} - {"none"}:
        names.remove("moe_freq")
    missing = "not set"
    return {
        name: (first.get(name, missing), second.get(name, missing))
        for name in names
        if first.get(name, missing) != second.get(name, missing)
    }


def refusal(checkpoint: str, found: Mapping[str, tuple[str, str]], weights: Mapping[str, tuple[Any, Any]]) -> str:
    """What to say of a checkpoint that does not fit: which settings differ, and what would make the model fit.

    `weights`: name -> (shape there, shape here), None for one that is missing; said where no setting differs.
    """
    if found:
        shown = [f"model.{name} is {theirs} there and {ours} here" for name, (theirs, ours) in found.items()]
        fitting = [_override(name, theirs) for name, (theirs, _) in found.items() if theirs != "not set"]
    else:
        shown = [
            f"{name} is {_shape(theirs)} there and {_shape(ours)} here" for name, (theirs, ours) in weights.items()
        ]
        fitting = []
    more = f" and {len(shown) - MOST_SHOWN} more" if len(shown) > MOST_SHOWN else ""
    fit = f"give {' '.join(fitting)}, or" if fitting else "give the model's own settings, or"
    return (
        f"{checkpoint}: a checkpoint of another model than this one: {', '.join(shown[:MOST_SHOWN])}{more}; {fit} train anew "
        "(another checkpoint.save_dir, without a checkpoint to start from)"
    )


def warning(checkpoint: str, found: Mapping[str, tuple[str, str]]) -> str:
    """What to say of a checkpoint whose weights fit a model that computes something else from them."""
    shown = ", ".join(f"model.{name} was {theirs} and is {ours}" for name, (theirs, ours) in found.items())
    fitting = " ".join(_override(name, theirs) for name, (theirs, _) in found.items() if theirs != "not set")
    return (
        f"{checkpoint}: its weights fit, but other settings make another model of them: {shown}; unless that is intended, give "
        f"{fitting or 'those of the checkpoint'}"
    )


def misfits(theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> dict[str, tuple[Any, Any]]:
    """Name of a weight -> (shape there, shape here) where they differ; None where there is none."""
    shapes = [{name: tuple(weight.shape) for name, weight in weights.items()} for weights in (theirs, ours)]
    names = dict.fromkeys((*shapes[0], *shapes[1]))
    pairs = {name: (shapes[0].get(name), shapes[1].get(name)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _override(name: str, value: str) -> str:
    return f"model.{name}={f'[{value}]' if ',' in value else value.lower() if value in ('True', 'False') else value}"


def _shape(shape: Any) -> str:
    return "missing" if shape is None else "x".join(map(str, shape)) or "a number"
