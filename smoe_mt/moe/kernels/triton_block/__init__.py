"""Backend ``triton``: a whole block as one operator. All modules but ``settings`` and ``records`` need triton.

operator   what a block calls; registered with torch          block     all gates forward, all gates backward
forward, backward, expert_gradients, products                 the launches of a gate
gate       sizes and memory of a gate                         tiles     how products are cut
programs   the kernels in Triton's language
"""
