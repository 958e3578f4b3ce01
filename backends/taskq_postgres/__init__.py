"""The PostgreSQL backend: a queue in a schema of its own, with every part of the contract."""

from taskq_postgres.connect import connect
from taskq_postgres.migrate import migrations

__all__ = ["connect", "migrations"]
