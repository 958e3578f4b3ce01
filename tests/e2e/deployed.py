"""The app that ``taskq worker`` runs in the tests of deploys: the fleet's tasks, and a journal for each process."""

import os
from pathlib import Path
from unittest.mock import patch

import taskq.opening
from taskq import App
from taskq.testing.history import Journal
from tests.e2e.worker import declare, recording


def deploy(version: int) -> App:
    """The app as of this version; a process's journal tells it in its name."""
    directory = Path.cwd()
    journal = Journal(directory / f"version-{version}.{os.getpid()}.journal")
    # For as long as the process lives.
    patch.object(taskq.opening, "open_backend", recording(journal, lambda _: None)).start()
    app = App()
    declare(app, journal, lambda _: None, directory / "domain.db")
    return app
