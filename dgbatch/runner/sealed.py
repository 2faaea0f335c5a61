"""JSON with its own checksum in it: what was cut short or edited is known for what it is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def sealed(body: Mapping[str, Any], **written: Any) -> bytes:
    """The body and the checksum of it. written: as json.dumps takes it."""
    return (json.dumps({**body, "sha256": _digest(body)}, **written) + "\n").encode()


def unsealed(data: bytes) -> dict[str, Any]:
    """The body that `sealed` was given. ValueError says what is wrong with it."""
    body = json.loads(data)
    if not isinstance(body, dict):
        raise ValueError("it is not a JSON object")
    if body.pop("sha256", None) != _digest(body):
        raise ValueError("its content does not match its own checksum")
    return body


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
