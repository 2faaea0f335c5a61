"""Which workers are on nodes that Ray is about to take away: a preemption notice, or an autoscaler that shrinks.

Nothing public in Ray says so. Its own libraries ask the same way; where that fails, nothing is known, and the worker
will be one that died.
"""

from __future__ import annotations

from typing import Any

ASK_S = 5.0  # to wait for an answer


def draining_nodes() -> frozenset[str]:
    """Ids of nodes that are being drained."""
    import ray

    try:
        return frozenset(ray._private.worker.global_worker.gcs_client.get_draining_nodes(timeout=ASK_S))
    except Exception:  # noqa: BLE001  # private to Ray: any version may do otherwise
        return frozenset()


def node_of(handle: Any) -> str | None:
    """The id of the node that an actor is on, where it is known."""
    import ray

    try:
        found = ray._private.state.actors(handle._actor_id.hex())
        node: str = found["Address"]["NodeID"]
    except Exception:  # noqa: BLE001  # as above
        return None
    return node
