"""What a caller gives as an address, as bytes: within a size and a time, by the transport that asks the Hub."""

from __future__ import annotations

import http.client
from typing import Any, Final

from precast.runtime.errors import HubError, InputError

__all__ = ["LARGEST", "fetched", "is_address"]

LARGEST: Final = 64 << 20  # bytes


def is_address(value: Any) -> bool:
    """Whether it is one of http or https."""
    return isinstance(value, str) and value.startswith(("http://", "https://"))


def fetched(address: str, *, noun: str) -> bytes:
    """The content of ``address``; ``noun``: what it should be, for errors.

    Raises:
        InputError: it is not there, is larger than `LARGEST`, comes too slowly, or the line breaks.
    """
    from precast.runtime.hub_transport import SILENCE, StatusError, ask

    shown, advice = f"The {noun} {address!r:.200}", "Check the address, or fetch it yourself and give the file."
    try:
        with ask(address, {"User-Agent": "precast"}, what=shown, limit=LARGEST, advice=advice) as answer:
            return b"".join(answer.chunks)
    except HubError as error:
        raise InputError(str(error)) from error
    except StatusError as error:
        reason = f"its server answers with status {error.status}"
    except TimeoutError:
        reason = f"nothing came for {SILENCE:g} s"
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = f"{error!s:.200}"
    raise InputError(f"{shown} cannot be fetched: {reason}. {advice}")
