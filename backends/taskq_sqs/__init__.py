"""A backend on Amazon SQS. Its one public name is ``connect``; see docs/guides/sqs.md."""

from taskq_sqs.connect import connect

__all__ = ["connect"]
