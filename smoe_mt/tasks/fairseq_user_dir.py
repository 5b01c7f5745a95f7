"""Where ``--user-dir`` names this package: fairseq imports every file of a user dir's tasks, so this one too.

Nothing else imports it; elsewhere `smoe_mt.register` is called.
"""

import sys

from smoe_mt.errors import UserError, one_line
from smoe_mt.registration import register

try:
    register()
except UserError as mistake:  # the patch that prints one line is not in place yet
    print(one_line(mistake), file=sys.stderr)
    raise SystemExit(1) from None
