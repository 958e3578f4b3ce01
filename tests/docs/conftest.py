"""The servers whose guarantees the documentation tells."""

from tests.servers.fixtures import postgres, running, server_logs, sqs, valkey_cluster

__all__ = ["postgres", "running", "server_logs", "sqs", "valkey_cluster"]
