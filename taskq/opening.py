"""The backends that the settings name."""

from contextlib import AbstractAsyncContextManager

from taskq.broker import Backend
from taskq.brokers import Sites, all_open
from taskq.companion import Notify, pair
from taskq.config import Settings
from taskq.connect import connect
from taskq.pools import DEFAULT


def open_backend(settings: Settings, notify: Notify) -> AbstractAsyncContextManager[Backend]:
    """The default one, which may be two as one, open for as long as the context.

    ``notify`` is told what a companion finds out.
    """
    carrying = connect(settings.url)
    return carrying if settings.companion is None else pair(carrying, connect(settings.companion), notify)


def open_sites(settings: Settings, notify: Notify) -> AbstractAsyncContextManager[Sites]:
    """All of them."""
    named = {name: connect(url) for name, url in settings.brokers.items()}
    return all_open({DEFAULT: open_backend(settings, notify), **named}, settings.pools)
