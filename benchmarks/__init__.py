"""What taskq costs, measured beside what it could cost at least, and beside its peers. One file a question.

``python -m benchmarks`` runs all, writes ``results.json`` and the tables in ``README.md``. Every ratio is taken inside
one run, rounds interleaved A B A B, and a round counts only when each of its jobs ran exactly once.
"""
