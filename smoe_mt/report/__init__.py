"""One page about one run or several: scores with the paper's, curves, what the strata do, data and configuration."""
