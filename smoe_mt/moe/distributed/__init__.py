"""Experts on other ranks: placement, all-to-all exchange, and the experts behind the interface of ``kernels``."""
