"""What the strata do: routing of a trained model over a split, as numbers and figures."""
