"""``smoe-mt serve``: a model behind HTTP, with a page to try it.

Data flows from ``app`` (requests, answers) over ``batching`` (one queue for all of them) to ``worker`` (a process of its own, which
alone loads torch) and its ``engine`` (a `Translator`), and back.
"""
