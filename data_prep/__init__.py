"""From text to a data folder: fetch, read, clean, split, SentencePiece, binarise. ``prepare`` is the one entry."""
