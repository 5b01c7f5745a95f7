"""How the experts of a block are computed on this machine: one interface, several kernels (``select``)."""
