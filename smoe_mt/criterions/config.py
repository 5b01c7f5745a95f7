"""Settings of the criterion ``stratified_routing``."""

# ruff: noqa: UP045
from dataclasses import dataclass, field, make_dataclass
from typing import TYPE_CHECKING, Any, Optional

from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterionConfig

from smoe_mt.models.options import with_options
from smoe_mt.moe import SYSTEMS, System


# fairseq makes flags of these annotations: they must be types, so annotations stay unpostponed in this module.
@dataclass
class SharedLossSettings(LabelSmoothedCrossEntropyCriterionConfig):
    """Label smoothing as in fairseq, and the losses that routing adds."""

    balance_weight: float = field(
        default=0.01, metadata={"help": "alpha: weight of the balance loss, per target token (paper: 0.01)"}
    )
    z_weight: Optional[float] = field(
        default=None,
        metadata={
            "help": "weight of the z-loss, per target token: the mean squared log of the sum of a gate's exponentiated logits "
            "(ST-MoE: 0.001); unset: 0, or what the system declares"
        },
    )


def weights_of(system: System) -> Any:
    """The weights of a system's named losses, as options; "z" has one already."""

    def option(name: str, weight: float) -> tuple[str, type, Any]:
        told = {"help": f"moe={system.name}: weight of its {name} loss, per target token", "range": (0, 1e6)}
        return f"{name}_weight", float, field(default=weight, metadata=told)

    return make_dataclass(
        f"{system.name}_weights", [option(*each) for each in system.loss_weights.items() if each[0] != "z"]
    )


LOSS_OPTIONS = tuple(
    options
    for system in SYSTEMS.values()
    for options in (weights_of(system), system.loss_options)
    if options is not None
)

if TYPE_CHECKING:

    class StratifiedRoutingConfig(SharedLossSettings):
        """The shared settings, and those of the losses of all systems."""

else:
    StratifiedRoutingConfig = with_options("StratifiedRoutingConfig", __name__, SharedLossSettings, LOSS_OPTIONS)
