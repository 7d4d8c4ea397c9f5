"""Call the Hub: retry what may pass by itself, and explain what fails for good."""

import json
import sys
import time
from collections.abc import Callable
from typing import TypeVar

from huggingface_hub.errors import (
    HFValidationError,
    HTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
)

from hyenadna.errors import PushError

from .access_tokens import hide_secrets, shown_cause

# Few, because the client already retries inside each call.
_TRIES = 3
_FIRST_WAIT = 5  # seconds
_LONGEST_WAIT = 120  # seconds
# HTTP statuses that may be over in a moment.
_PASSING = {408, 425, 429, 500, 502, 503, 504}

# What the client raises if an answer does not have the form it relies on.
_MALFORMED = (
    TypeError,
    KeyError,
    AttributeError,
    IndexError,
    json.JSONDecodeError,
    UnicodeDecodeError,
)
# The start of the client's message if the Hub does not accept a card.
_INVALID_CARD = "Invalid metadata"
# A failed transfer is a RuntimeError. An incomplete answer or a refused card is a ValueError.
FAILURES = (HTTPError, OSError, RuntimeError, ValueError, *_MALFORMED)

Result = TypeVar("Result")


def _response(error: BaseException | None):
    """Return the HTTP response that an error, or one of its causes, is about; None without one."""
    while error is not None:
        if getattr(error, "response", None) is not None:
            return error.response
        error = error.__cause__
    return None


def _reason(error: Exception, repo_id: str) -> str:
    """Return what the failure means and what to do."""
    # From the most specific to the least: the first two, and the validation error, are ValueErrors
    # or OSErrors too.
    if isinstance(error, LocalTokenNotFoundError):
        return "not logged in: `hf auth login`, or set HF_TOKEN"
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, which forbids every connection: unset it"
    if isinstance(error, HFValidationError) or str(error).startswith(_INVALID_CARD):
        return "the Hub does not accept the card, or the name"
    if isinstance(error, (ValueError, *_MALFORMED)):
        return (
            "this is not an answer of the Hub. Perhaps a proxy or the login page of a network "
            "answered instead: open the address in a browser, and push again"
        )

    response = _response(error)
    if response is None:
        return "the connection failed"
    status = response.status_code
    moved = "somebody else changed the repository at the same moment: look at what changed, and push again"
    known = {
        401: "no valid access token: `hf auth login`, or set HF_TOKEN to one with write access",
        403: (
            f"this access token may not write to {repo_id}: use one with write access, or another "
            "name before the `/`"
        ),
        404: f"{repo_id}, or the revision, is not there, or hidden from this access token",
        409: moved,
        412: moved,
        413: "a file is larger than the Hub takes",
        429: "too many requests: wait some minutes and push again",
    }
    if status in known:
        return known[status]
    if status < 500 and status not in _PASSING:
        return "the Hub refused it"
    return "the Hub has a fault; push again later"


def explain(error: Exception, repo_id: str) -> str:
    """Return why a call failed, what to do and, in brackets, what the Hub said, without secrets."""
    said = getattr(error, "server_message", None) or str(error).strip() or repr(error)
    # Hide before cutting: half a token at the end would not be recognised.
    said = hide_secrets(" ".join(str(said).split()))[:300]
    return f"{_reason(error, repo_id)} ({said})"


def with_retries(
    what: str, repo_id: str, step: Callable[[], Result], so_far: str = "nothing was published"
) -> Result:
    """Run `step`. After a failure that may pass by itself, wait and run it again.

    Args:
        what: The step in words, for messages.
        repo_id: The repository, for messages.
        step: A call to the Hub.
        so_far: What the message says about the state if the step fails for good.

    Raises:
        PushError: It failed for good.
    """
    for attempt in range(1, _TRIES + 1):
        try:
            return step()
        except PushError:
            raise
        except FAILURES as error:
            explained = explain(error, repo_id)
            if attempt == _TRIES or not _may_pass(error):
                raise PushError(f"{what} failed, and {so_far}: {explained}") from shown_cause(error)
            wait = _pause(error, attempt)
            print(
                f"{what}: {explained}; try {attempt + 1} of {_TRIES} in {wait:.0f} s",
                file=sys.stderr,
            )
            time.sleep(wait)
    raise AssertionError("the last try returns or raises")


def _may_pass(error: Exception) -> bool:
    if isinstance(error, (ValueError, LocalTokenNotFoundError, OfflineModeIsEnabled, *_MALFORMED)):
        return False
    response = _response(error)
    return response is None or response.status_code in _PASSING


def _pause(error: Exception, attempt: int) -> int:
    """Return the seconds to wait before the next try: what the Hub asks for, or ever longer."""
    response = _response(error)
    asked = "" if response is None else response.headers.get("Retry-After", "")
    if asked.isascii() and asked.isdigit() and len(asked) < 10:
        return min(int(asked), _LONGEST_WAIT)
    return min(_FIRST_WAIT * 4 ** (attempt - 1), _LONGEST_WAIT)
