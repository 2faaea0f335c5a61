"""run.json: what a run is, written once, with its own checksum. What workers measure is noted in it later."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from dgbatch.runner.sealed import sealed, unsealed

if TYPE_CHECKING:
    from dgbatch.runner.plan import Plan


def new_info(
    spec_public: dict[str, Any],
    plan: Plan,
    plan_sha256: str,
    fingerprint: str,
    versions: Mapping[str, Any],
    model: Mapping[str, Any],
) -> dict[str, Any]:
    """Of a run that begins now."""
    return {
        "version": 1,
        "name": spec_public["name"],
        "fingerprint": fingerprint,
        "spec": spec_public,
        "model": dict(model),
        "versions": dict(versions),
        "seed": spec_public["generation"]["seed"],
        "rows": plan.rows,
        "expected": plan.expected,
        "shards": len(plan.shards),
        "plan_sha256": plan_sha256,
        "created_at": utc_now(),
    }


def sealed_info(info: dict[str, Any]) -> bytes:
    return sealed(info, indent=2, ensure_ascii=False)


def unsealed_info(data: bytes) -> dict[str, Any]:
    """What `sealed_info` was given. ValueError where anybody changed it since."""
    try:
        info = unsealed(data)
    except ValueError:
        info = {}
    if sealed_info(info) != data:
        raise ValueError("was changed after the run was made")
    return info


def utc_now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
