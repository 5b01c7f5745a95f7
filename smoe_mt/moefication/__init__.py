"""``smoe-mt checkpoint moefy``: measure how sparsely a trained dense FFN fires, and cut it into experts (MoEfication).

The block that such a model has is ``smoe_mt.moe.systems.moefied``.
"""
