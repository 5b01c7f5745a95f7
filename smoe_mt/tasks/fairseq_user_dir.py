"""Where ``--user-dir`` names this package: fairseq imports every file of a user dir's tasks, so this one too.

Nothing else imports it; elsewhere `smoe_mt.register` is called.
"""

from smoe_mt.registration import register

register()
