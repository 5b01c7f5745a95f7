"""What fairseq's command lines and Trainer lack, as small named shims, and the memory of training on a CPU."""
