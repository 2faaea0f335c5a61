"""s3://bucket/key, gs://bucket/key, abfs://container@account/key: the locations that are not on this disk.

A URI is a place and nothing else: it is printed, logged and kept in run.json, so one that carries a secret is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from dgbatch.errors import LocationError

KINDS = {"s3": "s3", "gs": "gs", "az": "azure", "abfs": "azure", "abfss": "azure"}
FORMS = "s3://bucket/path, gs://bucket/path or abfs://container@account/path"
QUERY = re.compile(r"[?&][A-Za-z_][\w.-]*=")  # a lone ? is a wildcard of a glob


@dataclass(frozen=True, slots=True)
class StoreUri:
    """One place in an object store."""

    kind: str  # s3, gs, azure
    bucket: str  # or container
    account: str  # of Azure; empty where the environment says it
    key: str  # without slashes around it; empty for the bucket itself

    @property
    def store(self) -> tuple[str, str, str]:
        """What one connection serves."""
        return self.kind, self.bucket, self.account


def is_uri(path: str) -> bool:
    return "://" in path


def parse(uri: str, setting: str = "") -> StoreUri:
    """Raises LocationError, whose message holds nothing of a URI that may hold a secret.

    setting: where the user wrote it, such as output.path.
    """
    said = f"{setting}: " if setting else ""
    scheme, _, rest = uri.partition("://")
    if scheme not in KINDS:
        raise LocationError(f"{said}the scheme of {scheme}:// is not known. Write {FORMS}, or a path on this disk.")
    if QUERY.search(rest):
        raise LocationError(
            f"{said}{scheme}://... has a query (?name=value), which dgbatch would have to print. Leave it out: "
            "credentials and endpoints come from the environment, see docs/object_stores.md."
        )
    place, _, key = rest.partition("/")
    kind, account = KINDS[scheme], ""
    if kind == "azure":
        place, _, account = place.partition("@")
        account = account.split(".", 1)[0]
    if "@" in place + account or ":" in place + account:
        raise LocationError(
            f"{said}{scheme}://... has a user, a password or a port before its first slash. Leave it out: credentials "
            "and endpoints come from the environment, see docs/object_stores.md."
        )
    if not place:
        raise LocationError(f"{said}{uri} names no bucket. Write {FORMS}.")
    parts = key.strip("/").split("/") if key.strip("/") else []
    if any(part in ("", ".", "..") for part in parts):
        raise LocationError(f"{said}{uri} has an empty part, . or .. in its path. Write the path out.")
    return StoreUri(kind, place, account, "/".join(parts))
