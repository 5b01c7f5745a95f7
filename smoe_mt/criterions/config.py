"""Settings of the criterion ``stratified_routing``."""

from dataclasses import dataclass, field

from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterionConfig


# fairseq makes flags of these annotations: they must be types, so annotations stay unpostponed in this module.
@dataclass
class StratifiedRoutingConfig(LabelSmoothedCrossEntropyCriterionConfig):
    """Label smoothing as in fairseq, and the losses that routing adds."""

    balance_weight: float = field(
        default=0.01, metadata={"help": "alpha: weight of the balance loss, per target token (paper: 0.01)"}
    )
    cmr_budget: float = field(
        default=0.8, metadata={"help": "moe=cmr: share of a token that should come from the experts (paper: 0.8)"}
    )
    cmr_weight: float = field(
        default=0.01, metadata={"help": "moe=cmr: weight of the budget loss, per target token (paper: 0.01)"}
    )
