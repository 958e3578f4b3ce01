"""Redis and Valkey, alone, behind Sentinel or as a cluster: a queue with every part of the contract."""

from taskq_redis.connect import connect

__all__ = ["connect"]
