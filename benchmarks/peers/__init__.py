"""One program a side: taskq, each peer, the bare loops. Each runs in its own environment, all by the same rules.

``recorder.py`` has the rules; a program only says how its library is set up, defers and works.
"""
