"""What the paper says, as data: its benchmarks, the rows of its tables, their scores and their costs."""
