"""A job of a call: what the options, the arguments and the task say of it."""

from collections.abc import Mapping
from typing import Any

from taskq.call import new_id
from taskq.codec import Codec
from taskq.definition import Definition
from taskq.expiry import EXPIRES_AT
from taskq.job import Job
from taskq.limits.declared import each_of, key_text, waits
from taskq.options import CallOptions
from taskq.signature import Signature
from taskq.tags import TAGS, joined
from taskq.unique import derive_key
from taskq.versions import VERSION

ATTEMPTS = "taskq-attempts"
TIMEOUT = "taskq-timeout"
"""Headers that carry a call's own retry limit and time-out to the worker."""


def shared(definition: Definition, options: CallOptions) -> Job | None:
    """What all these calls' jobs are but for id and body; None where an argument, or a call's own id, says more."""
    if options.id or options.unique is not False or options.group is not False or definition.limits:
        return None
    return _job(definition, options, b"", None, None, options.group_limit)


def make_job(
    definition: Definition,
    options: CallOptions,
    signature: Signature,
    codec: Codec,
    arguments: Mapping[str, Any] | None,
    body: bytes,
) -> Job:
    """The job, under a new id unless the call names one.

    Without ``arguments``: of a call whose keys have nothing to do with them.
    """
    unique = group = None
    group_limit = options.group_limit
    if options.unique is not False or options.group is not False or definition.limits:
        known = {**signature.defaults, **(arguments or {})}
        unique = derive_key(options.unique, definition.name, known, codec)
        group = derive_key(options.group, definition.name, known, codec)
        for limit in each_of(definition.limits):
            if arguments is None and not waits(limit):
                continue
            # Of all of them, so that a key function that fails is refused here.
            key = limit.store_key(definition.name, key_text(limit, definition.name, known, codec))
            if waits(limit):
                group, group_limit = key, limit.n
    return _job(definition, options, body, unique, group, group_limit)


def _job(
    definition: Definition, options: CallOptions, body: bytes, unique: str | None, group: str | None, group_limit: int
) -> Job:
    return Job(
        id=options.id or new_id(),
        task=definition.name,
        body=body,
        queue=options.queue,
        priority=options.priority,
        delay=options.delay,
        run_at=options.run_at,
        expires_in=options.expires_in,
        unique=unique,
        on_conflict=options.on_conflict,
        unique_until=options.unique_until,
        group=group,
        group_limit=group_limit,
        tenant=options.tenant,
        headers=_headers(options, definition.version),
    )


def _headers(options: CallOptions, version: int) -> Mapping[str, str]:
    plain = options.attempts is None and options.timeout is None and options.expires_at is None
    if plain and not options.tags and version == 1:
        return options.headers
    headers = dict(options.headers)
    if options.attempts is not None:
        headers[ATTEMPTS] = str(options.attempts)
    if options.timeout is not None:
        headers[TIMEOUT] = str(options.timeout)
    if options.expires_at is not None:
        headers[EXPIRES_AT] = str(options.expires_at)
    if options.tags:
        headers[TAGS] = joined(options.tags)
    if version > 1:
        headers[VERSION] = str(version)
    return headers
