"""What is timed, against what: each ``bench_*`` prints a table and writes JSON. Run from the repository's root, as modules."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as the smoe-mt command sets it; before torch is imported
