"""What may stand in no log: what the job's ${NAME}s hold, credentials of the environment, signatures in URLs.

Libraries log what they like, and they know the keys that they were given.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

CREDENTIAL = re.compile(r"(^|_)(TOKEN|SECRET|PASSWORD|PASSWD|KEY|KEY_ID|SAS|CONNECTION_STRING)$", re.IGNORECASE)
SHORTEST = 8  # characters of a credential of the environment; a shorter one may be a word
SIGNATURE = re.compile(
    r"(?i)\b(x-amz-signature|x-amz-credential|x-amz-security-token|x-goog-signature|x-goog-credential|sig|signature)"
    r"=[^&\s\"']+"
)
BEARER = re.compile(r"(?i)\b(authorization['\"]?\s*[:=]\s*['\"]?(?:bearer|basic|token)?\s*)[\w.~+/=-]{8,}")
USER = re.compile(r"(?<=://)[^/\s:@]+:[^/\s@]+(?=@)")


class Redaction:
    """Hides secrets in texts. Made anew where the environment is another one."""

    def __init__(self, secrets: Mapping[str, str], environment: Mapping[str, str] | None = None):
        """secrets: what is hidden -> what stands in its place."""
        environment = os.environ if environment is None else environment
        of_environment = {
            value: f"${{{name}}}"
            for name, value in environment.items()
            if CREDENTIAL.search(name) and len(value) >= SHORTEST
        }
        known = {**of_environment, **secrets}
        self._known = [(value, known[value]) for value in sorted(known, key=len, reverse=True)]

    def __call__(self, text: str) -> str:
        for value, name in self._known:
            if value in text:
                text = text.replace(value, name)
        if "=" in text:
            text = SIGNATURE.sub(r"\1=...", text)
        if "://" in text:
            text = USER.sub("...", text)
        if "uthorization" in text or "UTHORIZATION" in text:
            text = BEARER.sub(r"\1...", text)
        return text
