"""``python -m taskq.cli`` is the command ``taskq``."""

from taskq.cli import main

main()
