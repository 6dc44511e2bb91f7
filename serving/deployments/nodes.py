"""Which node this process is on, and what has to be on the head node.

The gateways, HAProxy's keeper and the control plane share files, so all of them are on one node (docs/adr/0028); Ray
marks its head node with a resource that any of its programs may ask for. Not here: what a replica elsewhere does
without these files (``serving.deployments.away``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

import ray

HEAD_RESOURCE: Final = "node:__internal_head__"
"""Ray's own name for what its head node has one of, and no other node."""

ON_HEAD: Final[Mapping[str, float]] = {HEAD_RESOURCE: 0.0001}
"""The smallest part of it that Ray can count."""


class Node(NamedTuple):
    """A node: Ray's name for it, its IP address, and whether it is the head node."""

    id: str
    ip: str
    head: bool


def this_node() -> Node:
    """Where this process runs; asks Ray, so not on an event loop. Raises ``LookupError`` if Ray doesn't list it."""
    return node_of(ray.get_runtime_context().get_node_id(), _nodes())


def _nodes() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return found


def node_of(name: str, nodes: Iterable[Mapping[str, Any]]) -> Node:
    """The node of this name among those that ``ray.nodes()`` told of; raises ``LookupError``."""
    for node in nodes:
        if node["NodeID"] == name:
            return Node(name, node["NodeManagerAddress"], HEAD_RESOURCE in node["Resources"])
    raise LookupError(f"Ray knows no node {name}")
