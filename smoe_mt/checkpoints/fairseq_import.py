"""Models of fairseq's own `transformer` and of the paper's released code, as weights and settings of `smoe_transformer`.

Both must be pre-norm with a joint dictionary. Rows of the embeddings are found by token, so the order of two dictionaries
may differ.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smoe_mt.checkpoints.reading import open_checkpoint
from smoe_mt.checkpoints.released_files import PART, read_released
from smoe_mt.checkpoints.released_weights import Block, released_blocks
from smoe_mt.checkpoints.schema import updates_of
from smoe_mt.errors import UserError, first_sentence

SIZES = ("embed_dim", "ffn_embed_dim", "layers", "attention_heads")
TAKEN = ("dropout", "attention_dropout", "activation_dropout", "activation_fn", "share_all_embeddings")
#: What `smoe_transformer` has not: setting of theirs -> value with which it changes nothing.
REFUSED: Mapping[str, Any] = {
    **{f"{side}_learned_pos": False for side in ("encoder", "decoder")},
    **dict.fromkeys(("layernorm_embedding", "no_scale_embedding", "no_token_positional_embeddings"), False),
    **dict.fromkeys(("no_cross_attention", "cross_self_attention", "adaptive_input", "no_decoder_final_norm"), False),
    "adaptive_softmax_cutoff": None,
}
EMBEDDINGS = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "decoder.output_projection.weight")
NOT_WEIGHTS = re.compile(r".*\._float_tensor")
FINAL_NORM_SINCE = {"encoder.version": 2, "decoder.version": 3}
TAG = re.compile(r"<2(.+)>")
FILLER = re.compile(r"madeupword\d+")  # fairseq's, that make a dictionary a round number


@dataclass(frozen=True)
class ForeignModel:
    """`weights` under our names, embeddings still in the order of `symbols`; `settings` of `smoe_transformer`."""

    path: Path
    weights: dict[str, Tensor]
    settings: dict[str, Any]
    symbols: tuple[str, ...]
    updates: int


def read_foreign(path: Path, dictionary: str | Path | None = None) -> ForeignModel:
    """Read a checkpoint of fairseq's `transformer`, or any of the files of a released model, whose others lie beside it.

    `dictionary`: their dict.txt, where it is not in the data folder that the checkpoint remembers. Raises UserError for a
    model that `smoe_transformer` cannot be, and for a dictionary that is not theirs.
    """
    state = read_released(path) if PART.fullmatch(path.stem) else open_checkpoint(path, foreign=True)
    return from_state(state, path, dictionary)


def from_state(state: Mapping[str, Any], path: Path, dictionary: str | Path | None = None) -> ForeignModel:
    """As `read_foreign`, of what the checkpoint holds, which `open_checkpoint` has checked."""
    theirs: Mapping[str, Any] = state["cfg"]["model"]
    weights = {name: _plain(tensor) for name, tensor in state["model"].items() if not NOT_WEIGHTS.fullmatch(name)}
    missing = [name for name in EMBEDDINGS[:2] if name not in weights]
    if missing or "encoder_embed_dim" not in theirs:
        raise UserError(
            f"{path}: no transformer for translation ({missing[0] if missing else 'no settings'} is missing)"
        )
    if any(weights[name].dim() != 2 for name in EMBEDDINGS if name in weights):
        raise UserError(f"{path}: its embeddings are no matrices; take another checkpoint")
    _check_version(weights, path)
    weights.setdefault(EMBEDDINGS[2], weights[EMBEDDINGS[1]])  # fairseq's of before 2020 had no such name for it
    rest, blocks = released_blocks(weights)
    settings = _settings_of_ours(theirs, path) | _settings_of_blocks(theirs, blocks, path)
    rest |= {f"{prefix}.{name}": tensor for prefix, block in blocks.items() for name, tensor in block.weights.items()}
    symbols = _symbols(state, dictionary, weights[EMBEDDINGS[0]].size(0), path)
    return ForeignModel(path, rest, settings, symbols, updates_of(state))


def fit_vocabulary(model: ForeignModel, symbols: Sequence[str]) -> tuple[dict[str, Tensor], list[str]]:
    """The weights with the rows of their embeddings in the order of `symbols`, and those tags that theirs has not.

    A tag's row is that of their language token; a tag or filler that they have not gets the mean of all rows. Raises
    UserError where they lack a piece.
    """
    places = {symbol: place for place, symbol in enumerate(model.symbols)}
    rows = [places.get(symbol, _place_of_tag(symbol, places)) for symbol in symbols]
    lacking = [symbol for symbol, row in zip(symbols, rows, strict=True) if row is None]
    pieces = [symbol for symbol in lacking if not TAG.fullmatch(symbol) and not FILLER.fullmatch(symbol)]
    if pieces:
        raise UserError(
            f"{model.path}: its dictionary lacks {len(pieces):,} of {len(symbols):,} entries of the data folder "
            f"({', '.join(pieces[:3])}, ...); prepare the data folder with the SentencePiece model that it was trained with"
        )
    weights = dict(model.weights)
    for name in EMBEDDINGS:
        table = weights[name]
        with_mean = torch.cat([table, table.float().mean(0, keepdim=True).to(table.dtype)])
        weights[name] = with_mean[torch.tensor([len(table) if row is None else row for row in rows])]
    return weights, [symbol for symbol in lacking if TAG.fullmatch(symbol)]


def _place_of_tag(symbol: str, places: Mapping[str, int]) -> int | None:
    """fairseq's multilingual tasks write <2en> as __en__ or [en]."""
    tag = TAG.fullmatch(symbol)
    return places.get(f"__{tag[1]}__", places.get(f"[{tag[1]}]")) if tag else None


def _check_version(weights: Mapping[str, Tensor], path: Path) -> None:
    """fairseq of before 2018 had no norm after the last layer; loading such a model changes the model."""
    for name, since in FINAL_NORM_SINCE.items():
        if name not in weights or float(weights[name][0]) < since:
            raise UserError(f"{path}: of a fairseq that had no norm after the last layer ({name} is below {since})")


def _plain(tensor: Tensor) -> Tensor:
    """Models trained in half precision are stored in it."""
    return tensor.float() if tensor.is_floating_point() else tensor


def _settings_of_ours(theirs: Mapping[str, Any], path: Path) -> dict[str, Any]:
    for name, harmless in REFUSED.items():
        if theirs.get(name, harmless) not in (harmless, None):
            raise UserError(f"{path}: its {name} is {theirs[name]}, which smoe_transformer does not know")
    for side in ("encoder", "decoder"):
        if not theirs.get(f"{side}_normalize_before"):
            raise UserError(
                f"{path}: a post-norm model ({side}_normalize_before is off), and MoE blocks are pre-norm only"
            )
    sizes = [f"{side}_{size}" for side in ("encoder", "decoder") for size in SIZES]
    missing = [name for name in sizes if name not in theirs]
    if missing:
        raise UserError(f"{path}: its settings do not say {missing[0]}; take another checkpoint")
    ours = {name: theirs[name] for name in sizes}
    ours |= {name: theirs[name] for name in TAKEN if name in theirs}
    ours |= {name: theirs[name] for name in ("max_source_positions", "max_target_positions") if theirs.get(name)}
    return {"share_all_embeddings": False, **ours, "moe": "none"}


def _settings_of_blocks(theirs: Mapping[str, Any], blocks: Mapping[str, Block], path: Path) -> dict[str, Any]:
    """What the weights show; of what they do not show, what their settings say."""
    if not blocks:
        return {}
    kinds = {(block.moe, block.strata) for block in blocks.values()}
    numbers = sorted(int(prefix.rsplit(".", 1)[1]) + 1 for prefix in blocks if prefix.startswith("encoder"))
    frequency = numbers[0] if numbers else 0
    if len(kinds) > 1 or not frequency or any(number % frequency for number in numbers):
        raise UserError(f"{path}: its blocks differ, or are not in every n-th layer")
    ((moe, strata),) = kinds
    if moe == "vanilla" and theirs.get("moe_top1_expert"):
        moe = "switch"
    elif moe == "vanilla" and theirs.get("moe_eom"):
        moe = "eom"
    found = {
        "moe": moe,
        "moe_freq": frequency,
        "variant": "release",
        "num_experts": sum(strata),
        "second_choice": "gumbel",
    }
    if moe == "stratified":
        found["strata"] = ",".join(map(str, strata))
    if theirs.get("moe_eom"):
        found["eom_p"] = float(theirs["moe_eom"])
    return found


def _symbols(state: Mapping[str, Any], given: str | Path | None, rows: int, path: Path) -> tuple[str, ...]:
    """Their dictionary, in the order of the rows of their embeddings."""
    from fairseq.data import Dictionary
    from fairseq.data.multilingual.multilingual_utils import augment_dictionary

    task: Mapping[str, Any] = state["cfg"]["task"]
    file = Path(given) if given is not None else _dictionary_beside(task, path)
    try:
        dictionary = Dictionary.load(str(file))
    except Exception as error:  # fairseq raises several types, plain Exception among them
        raise UserError(f"{file}: not a dictionary of fairseq's ({first_sentence(error)})") from error
    if len(dictionary) < rows:  # multilingual tasks add a token for each language
        augment_dictionary(dictionary, _languages(task), task.get("lang_tok_style") or "multilingual")
    if len(dictionary) != rows:
        raise UserError(
            f"{file}: {len(dictionary):,} entries with those of its languages, but the embeddings of {path} have {rows:,} "
            "rows; name the dictionary that it was trained with (--dictionary)"
        )
    return tuple(dictionary.symbols)


def _dictionary_beside(task: Mapping[str, Any], path: Path) -> Path:
    data = str(task.get("data") or "")
    folder = Path(data if Path(data).is_dir() else data.split(":")[0])
    names = [*folder.glob("dict.*.txt")] or [*folder.glob("dict.txt")] if task.get("data") else []
    found = sorted(name for name in names if name.is_file())
    if not found:
        raise UserError(
            f"{path}: its dictionary is needed, and its data folder {folder} is not there; `smoe-mt checkpoint convert` takes "
            "it with --dictionary"
        )
    if len({file.read_bytes() for file in found}) > 1:
        raise UserError(
            f"{folder}: {found[0].name} and others differ, and only models with a joint dictionary are known"
        )
    return found[0]


def _languages(task: Mapping[str, Any]) -> list[str]:
    """In the order in which fairseq's multilingual tasks add them."""
    if task.get("langs"):
        return _listed(task["langs"])
    if task.get("lang_dict") and Path(str(task["lang_dict"])).is_file():
        try:
            lines = Path(task["lang_dict"]).read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"{task['lang_dict']}: the list of languages that the checkpoint names cannot be read ({error})"
            ) from error
        return [line.strip() for line in lines if line.strip()]
    return sorted({language for pair in _listed(task.get("lang_pairs") or ()) for language in pair.split("-")})


def _listed(value: str | Iterable[str]) -> list[str]:
    return value.split(",") if isinstance(value, str) else list(value)
