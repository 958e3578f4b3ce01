"""The PostgreSQL backend: a queue in a schema of its own, with every part of the contract."""

from taskq_postgres.connect import connect

__all__ = ["connect"]
