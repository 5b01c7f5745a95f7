"""One reader per file format: from a file to (key, text) or (English, foreign) strings as they stand in it."""
