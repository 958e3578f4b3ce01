"""Words of one's own on a job, to find it and to pause it by: a header, of which brokers know nothing."""

import re
from collections.abc import Sequence
from typing import cast

from taskq.errors import ConfigError
from taskq.job import Job

TAGS = "taskq-tags"
MOST = 16

_TAG = re.compile(r"[^\s,]{1,64}")


def tags_of(job: Job) -> Sequence[str]:
    """Its tags, in the order given."""
    text = job.headers.get(TAGS)
    return text.split(",") if text else ()


def joined(tags: Sequence[str]) -> str:
    """Checked tags as the header says them."""
    return ",".join(tags)


def check_tags(value: object) -> tuple[str, ...]:
    """Tags, each once; raises ConfigError for what cannot be some."""
    given = (value,) if isinstance(value, str) else value
    if isinstance(given, list | tuple):
        tags = dict.fromkeys(cast("Sequence[object]", given))
        if len(tags) <= MOST and all(map(_is_tag, tags)):
            return tuple(cast("dict[str, None]", tags))
    raise ConfigError(f"tags={value!r}: give up to {MOST} texts of 1 to 64 characters, without white space and commas")


def _is_tag(value: object) -> bool:
    return isinstance(value, str) and value.isprintable() and _TAG.fullmatch(value) is not None
