"""Banks of experts: what a block's experts are, whatever kernel or rank computes them."""

from smoe_mt.moe.experts.base import ExpertBank
from smoe_mt.moe.experts.ffn import Experts, FFNBank, FFNs, FFNWeights
from smoe_mt.moe.experts.ragged import RaggedExperts

__all__ = ["ExpertBank", "Experts", "FFNBank", "FFNWeights", "FFNs", "RaggedExperts"]
