"""One HTTP request, and what its answer means."""

from http import HTTPStatus
from urllib.parse import urlsplit

from taskq.webhook import Request

LONGEST = 3600.0
"""Seconds that a receiver may ask to be left alone."""


class NotDelivered(Exception):
    """The receiver did not take it."""

    def __init__(self, reason: str, *, after: float | None = None, final: bool = False) -> None:
        super().__init__(reason)
        self.after = after
        """Seconds to wait, when the receiver said so."""
        self.final = final
        """It never will."""


async def post(request: Request, timeout: float) -> None:
    """Post it, following no redirection, and return when it was taken; raises NotDelivered."""
    import aiohttp  # here, because it belongs to an extra

    host = urlsplit(request.url).hostname
    limit = aiohttp.ClientTimeout(total=timeout)
    try:
        async with (
            aiohttp.ClientSession(timeout=limit, trust_env=True) as session,
            session.post(request.url, data=request.body, headers=request.headers, allow_redirects=False) as answer,
        ):
            status, after = answer.status, answer.headers.get("retry-after", "")
    except TimeoutError:
        raise NotDelivered(f"{host} has not answered within {timeout:g} s") from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        # Not its text, nor as the cause: both may hold the URL, which is a secret of Slack's.
        raise NotDelivered(f"{host} cannot be reached: {type(error).__name__}") from None
    if not 200 <= status < 300:
        wait = min(float(after), LONGEST) if after.isdecimal() else None
        raise NotDelivered(f"{host} answered {status}", after=wait, final=status == HTTPStatus.GONE)
