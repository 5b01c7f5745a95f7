"""``smoe-mt checkpoint prune``: fewer experts in a trained model, by grouping similar ones and merging each group."""
