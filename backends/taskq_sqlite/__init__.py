"""The embedded backend: a queue in an SQLite file, with every part of the contract."""

from taskq_sqlite.connect import connect

__all__ = ["connect"]
