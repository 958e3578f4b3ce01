"""The backend that the settings name: one, or two as one."""

from contextlib import AbstractAsyncContextManager

from taskq.broker import Backend
from taskq.companion import Notify, pair
from taskq.config import Settings
from taskq.connect import connect


def open_backend(settings: Settings, notify: Notify) -> AbstractAsyncContextManager[Backend]:
    """Open for as long as the context; ``notify`` is told what a companion finds out."""
    carrying = connect(settings.url)
    return carrying if settings.companion is None else pair(carrying, connect(settings.companion), notify)
