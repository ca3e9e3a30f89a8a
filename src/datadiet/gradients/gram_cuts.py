"""Cutting a backward pass in parts: places in the graph that every path from the output goes through.

With many logits, the gradients at all layers' outputs do not fit in memory at once. At a cut (between two residual
blocks, say) they can be kept for every logit, what lies above finished and let go, and the passes taken up again.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Sequence
from typing import Any

from torch.autograd.graph import GradientEdge


def sections(start: GradientEdge, wanted: Sequence[GradientEdge]) -> list[tuple[GradientEdge, list[int]]]:
    """The graph below `start`, cut wherever that is possible.

    Args:
        start: where the backward pass begins.
        wanted: edges at which gradients are wanted.

    Returns:
        In the order of the backward pass: the edge that everything of a section hangs on, and the indices of the
        wanted edges in it. Wanted edges that the start does not depend on are left out.
    """
    owners: dict[Any, list[int]] = {}
    for i, edge in enumerate(wanted):
        owners.setdefault(edge.node, []).append(i)
    height, below = _useful(start.node, owners)
    if start.node not in height:
        return []
    missing: dict[Any, int] = {}
    for edges in below.values():
        for node, _ in edges:
            missing[node] = missing.get(node, 0) + 1
    found: list[tuple[GradientEdge, list[int]]] = []
    open_edges: set[Hashable] = {(start.node, start.output_nr)}
    # Branches that lead nowhere further come first, so that they do not hide a cut.
    ready: list[tuple[int, int, Any]] = [(height[start.node], 0, start.node)]
    count = 0
    while ready:
        _, _, node = heapq.heappop(ready)
        into = [edge for edge in open_edges if edge[0] is node]  # type: ignore[index]
        if len(into) == len(open_edges) == 1:
            found.append((GradientEdge(node, into[0][1]), []))  # type: ignore[index]
        open_edges.difference_update(into)
        found[-1][1].extend(owners.get(node, ()))
        for down in below[node]:
            open_edges.add(down)
            missing[down[0]] -= 1
            if not missing[down[0]]:
                count += 1
                heapq.heappush(ready, (height[down[0]], count, down[0]))
    kept = [(edge, members) for edge, members in found if members]
    return [(start, kept[0][1]), *kept[1:]]


def _useful(start: Any, owners: dict[Any, list[int]]) -> tuple[dict[Any, int], dict[Any, list[tuple[Any, int]]]]:
    """The nodes that lead to a wanted one: the longest way down from each, and its edges to others of them."""
    edges: dict[Any, list[tuple[Any, int]]] = {}
    height: dict[Any, int] = {}
    below: dict[Any, list[tuple[Any, int]]] = {}
    stack = [start]
    while stack:
        node = stack[-1]
        if node not in edges:
            edges[node] = [(n, i) for n, i in node.next_functions if n is not None]
            stack.extend(n for n, _ in edges[node] if n not in edges)
            continue
        stack.pop()
        if node in below:
            continue
        below[node] = [(n, i) for n, i in edges[node] if n in height]
        if below[node] or node in owners:
            height[node] = 1 + max((height[n] for n, _ in below[node]), default=0)
    return height, {n: e for n, e in below.items() if n in height}


def merged(
    parts: Sequence[tuple[GradientEdge, list[int]]], sizes: Sequence[int], memory: int
) -> list[tuple[GradientEdge, list[int]]]:
    """Neighbouring sections taken together as long as what is kept for them fits the memory."""
    found: list[tuple[GradientEdge, list[int]]] = []
    room = 0
    for edge, members in parts:
        size = sum(sizes[i] for i in members)
        if found and size <= room:
            found[-1][1].extend(members)
            room -= size
        else:
            found.append((edge, list(members)))
            room = memory - size
    return found
