"""What fairseq's command lines and Trainer lack: ranks, faults, exact resumption, expert parallelism."""
