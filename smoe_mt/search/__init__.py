"""Search for the best output: beam search, and where the next token's scores come from."""
