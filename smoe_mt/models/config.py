"""Settings of ``smoe_transformer``: one flat dataclass, the same names as flags and in Hydra."""

# ruff: noqa: UP045
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Optional, cast

from fairseq import utils
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.models.transformer import TransformerConfig
from omegaconf import DictConfig, OmegaConf

from smoe_mt.allowed.config import check_model, check_values
from smoe_mt.errors import UserError
from smoe_mt.models.options import with_options
from smoe_mt.moe import SYSTEMS
from smoe_mt.moe.kernels.select import BACKENDS
from smoe_mt.moe.names import SIDES
from smoe_mt.moe.registry import DENSE
from smoe_mt.moe.routers.bias import WITHIN
from smoe_mt.moe.structure import places_by_side
from smoe_mt.ranges import kinds_of

SYSTEMS.close()
MOE_KINDS = (DENSE, *SYSTEMS)


# fairseq makes flags of these annotations: they must be types, so annotations stay unpostponed in this module.
@dataclass
class SharedSettings(FairseqDataclass):
    """Defaults: the paper's M4 model (transformer base, pre-norm, shared embeddings; section 3)."""

    encoder_embed_dim: int = field(default=512, metadata={"help": "encoder embedding dimension"})
    encoder_ffn_embed_dim: int = field(default=2048, metadata={"help": "encoder FFN dimension, of each expert too"})
    encoder_layers: int = field(default=6, metadata={"help": "encoder layers"})
    encoder_attention_heads: int = field(default=8, metadata={"help": "encoder attention heads"})
    encoder_normalize_before: bool = field(default=True, metadata={"help": "pre-norm encoder layers (required)"})
    decoder_embed_dim: int = field(default=512, metadata={"help": "decoder embedding dimension"})
    decoder_ffn_embed_dim: int = field(default=2048, metadata={"help": "decoder FFN dimension, of each expert too"})
    decoder_layers: int = field(default=6, metadata={"help": "decoder layers"})
    decoder_attention_heads: int = field(default=8, metadata={"help": "decoder attention heads"})
    decoder_normalize_before: bool = field(default=True, metadata={"help": "pre-norm decoder layers (required)"})
    share_all_embeddings: bool = field(
        default=True, metadata={"help": "one embedding for encoder, decoder and output (the dictionary is joint)"}
    )
    activation_fn: ChoiceEnum(utils.get_available_activation_fns()) = field(  # type: ignore[valid-type]
        default="relu", metadata={"help": "activation of the FFNs; experts know relu and gelu"}
    )
    dropout: float = field(default=0.3, metadata={"help": "dropout probability"})
    attention_dropout: float = field(default=0.1, metadata={"help": "dropout of attention weights"})
    activation_dropout: float = field(default=0.0, metadata={"help": "dropout after the activation of dense FFNs"})
    max_source_positions: int = field(default=1024, metadata={"help": "longest source, in pieces"})
    max_target_positions: int = field(default=1024, metadata={"help": "longest target, in pieces"})
    moe: ChoiceEnum(MOE_KINDS) = field(  # type: ignore[valid-type]
        default="stratified", metadata={"help": "what stands in place of every moe-freq-th FFN; none: a dense model"}
    )
    moe_freq: int = field(default=2, metadata={"help": "every n-th layer of encoder and decoder has a MoE block"})
    strata: Any = field(
        default="4,4",
        metadata={
            "help": "stratified: experts per stratum, such as 4,12 (Hydra: model.strata=[4,12]); "
            "stacking: experts of each layer in sequence. Of each block by itself: 4,4;8;2,6 (Hydra: [[4,4],[8],[2,6]]), "
            "encoder first"
        },
    )
    num_experts: Any = field(
        default=8,
        metadata={
            "help": "experts per block of systems without strata; of each block by itself: 8,4,4,8 (Hydra: [8,4,4,8]), "
            "encoder first"
        },
    )
    top_k: int = field(default=2, metadata={"help": "experts that a token is sent to at a visit (switch: always 1)"})
    capacity_factor: Optional[float] = field(
        default=None,
        metadata={
            "help": "in training an expert serves at most this times tokens / experts slots; 0 drops nothing; "
            "unset: 2, for switch in the release variant 1, for dynmoe 0"
        },
    )
    eom_p: Optional[float] = field(
        default=None,
        metadata={"help": "probability that an expert's output is masked in training; unset: 0.1 for eom, else 0"},
    )
    variant: ChoiceEnum(["paper", "release"]) = field(  # type: ignore[valid-type]
        default="paper", metadata={"help": "release: compute what the paper's released code computes"}
    )
    second_choice: ChoiceEnum(["argmax", "gumbel"]) = field(  # type: ignore[valid-type]
        default="argmax",
        metadata={
            "help": "gumbel: draw the second expert with Gumbel noise, in training and in evaluation, as the released code "
            "does; translations then differ from run to run"
        },
    )
    shared_experts: int = field(
        default=0,
        metadata={
            "help": "experts that every token passes beside a block: an FFN of so many times an expert's hidden units"
        },
    )
    balance_bias: float = field(
        default=0.0,
        metadata={
            "help": "balance the load by a bias of each expert for its selection alone, which changes by this after each update "
            "(DeepSeek-V3: 0.001); 0: no biases"
        },
    )
    balance_within: ChoiceEnum(list(WITHIN)) = field(  # type: ignore[valid-type]
        default="gate",
        metadata={
            "help": "balance_bias: among all experts that a gate sees, or (stratum) among those of each stratum, which leaves "
            "the choice of the stratum to the gate"
        },
    )
    moe_backend: ChoiceEnum(list(BACKENDS)) = field(  # type: ignore[valid-type]
        default="auto",
        metadata={
            "help": "loop: one product for each expert; grouped: one grouped product (for GPUs); "
            "triton: own kernels (for GPUs); auto: triton on a GPU, else loop"
        },
    )
    gate_bias: bool = field(
        default=False,
        metadata={"help": "softmax gates have a bias (`smoe-mt checkpoint prune --gate-bias` makes such models)"},
    )
    moe_debug: bool = field(
        default=False,
        metadata={"help": "stop, naming the gate, when a gate's probabilities are not finite (slower on a GPU)"},
    )
    init_experts_from: Optional[str] = field(
        default=None,
        metadata={"help": "start from this checkpoint of a dense model of the same size: each expert is its FFN"},
    )
    train_only: ChoiceEnum(["all", "experts"]) = field(  # type: ignore[valid-type]
        default="all",
        metadata={
            "help": "experts: train experts and gates alone, and leave all other weights as they are at the start"
        },
    )
    expert_init: ChoiceEnum(["independent", "equal"]) = field(  # type: ignore[valid-type]
        default="independent",
        metadata={"help": "equal: the experts of a block start with the same weights"},
    )
    cpu_bf16: ChoiceEnum(["off", "on", "auto"]) = field(  # type: ignore[valid-type]
        default="off",
        metadata={
            "help": "train on a CPU in bfloat16 with float32 weights; auto: where that is faster, by processor and width"
        },
    )


if TYPE_CHECKING:

    class SMoETransformerConfig(SharedSettings):
        """The shared settings, and the options of all systems."""

else:
    SMoETransformerConfig = with_options(
        "SMoETransformerConfig",
        __name__,
        SharedSettings,
        (system.options for system in SYSTEMS.values() if system.options is not None),
    )


def transformer_config(cfg: SMoETransformerConfig | DictConfig | Namespace) -> TransformerConfig:
    """The settings as fairseq's transformer reads them; ours stay on it as attributes; ``places`` as well, where each block
    stands, by side, the first block first, and ``groups``, its experts.

    Raises:
        UserError: settings that make no sense, each named.
    """
    flat: dict[str, Any]
    if isinstance(cfg, DictConfig):
        flat = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True, enum_to_str=True))
    else:
        flat = dict(vars(cfg)) if isinstance(cfg, Namespace) else asdict(cfg)
    # A checkpoint of an earlier version lacks the options of systems that have come since.
    flat = asdict(SMoETransformerConfig()) | flat
    _check(flat)
    places = places_by_side(flat)
    # fairseq fills these two in before it knows the embedding dimension.
    flat |= {"decoder_input_dim": flat["decoder_embed_dim"], "decoder_output_dim": flat["decoder_embed_dim"]}
    nested = TransformerConfig.from_namespace(Namespace(**flat))
    nested.places = places
    nested.groups = {side: tuple(place.groups for place in each) for side, each in places.items()}
    return nested


def _check(flat: Mapping[str, Any]) -> None:
    check_values("model", {name: flat[name] for name in kinds_of(SMoETransformerConfig)}, SMoETransformerConfig)
    check_model(flat)
    for side in SIDES:
        if not flat[f"{side}_normalize_before"]:
            raise UserError(f"MoE blocks are pre-norm only: set {side}_normalize_before to true")
