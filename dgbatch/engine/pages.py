"""Which page of memory holds whose keys and values: reserved, shared, given back. Knows no torch.

One tile, one page: the keys and values of one piece of clean text (a chunk of a prompt, or a settled canvas) lie in
one page of the full layers' pool and in one of the sliding layers'. A page never holds two pieces, so a page table is a
list of pages with their token counts, and a chunk that follows an equal prefix can be shared whole.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

Chunk = tuple[int, ...]  # the token ids of one piece of clean text
View = tuple[tuple[int, int, int], ...]  # (page, first token, end) in order: what a tile sees before itself


@dataclass(slots=True, eq=False)
class Page:
    """One page of one pool, and how many hold it: sequences, and the prefix cache."""

    number: int
    tokens: int
    users: int = 1


class Pool:
    """The pages of one kind of layer. Sequences reserve what they may ever hold at once, so taking never fails."""

    def __init__(self, pages: int, forget: Callable[[], None]):
        self.size = pages
        self.reserved = 0
        self._free = list(range(pages - 1, -1, -1))
        self._forget = forget  # gives back at least one page that the prefix cache alone holds

    @property
    def free(self) -> int:
        return len(self._free)

    def take(self, tokens: int) -> Page:
        if not self._free:
            self._forget()
        return Page(self._free.pop(), tokens)

    def release(self, page: Page) -> None:
        page.users -= 1
        if not page.users:
            self._free.append(page.number)


def share(page: Page) -> Page:
    page.users += 1
    return page


@dataclass(slots=True, eq=False)
class Node:
    """A chunk in the prefix cache, found by the chunks before it."""

    chunk: Chunk
    parent: Node | None
    full: Page
    sliding: Page | None  # None: given back to make room, while `full` was kept
    children: dict[Chunk, Node] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Lease:
    """The pages of one sequence, in the order of its text."""

    need: tuple[int, int]  # pages it may hold at once, of the full and of the sliding pool
    encoded: int = 0  # tokens its pages hold, those of the pass being planned included
    full: list[Page] = field(default_factory=list)
    sliding: list[Page] = field(default_factory=list)  # what is left of them; `slid` tokens lie before
    slid: int = 0
    node: Node | None = None  # how far its text lies in the prefix cache


class Pages:
    """All pages of an engine, and the prefixes kept in those that no sequence needs."""

    def __init__(self, full: int, sliding: int, page_tokens: int, window: int, keep: bool = True, ahead: int = 0):
        """window: positions before itself that a sliding layer's row sees; keep: whether prefixes are cached.

        ahead: pages that a text may be given before it is there (device_step/grants.py). Rows then look back from up
        to so many pages before `encoded`, so a page leaves the window as much later.
        """
        self.full = Pool(full, self._forget_chunk)
        self.sliding = Pool(sliding, self._forget_sliding)
        self.page_tokens = page_tokens
        self.window = window + ahead * page_tokens
        self.hit_tokens = 0
        self._keep = keep
        self._first: dict[Chunk, Node] = {}
        self._nodes: OrderedDict[Node, None] = OrderedDict()  # the least recently used first

    def need(self, chunks: int, chunks_a_pass: int) -> tuple[int, int]:
        """Pages of both pools that a text of so many chunks holds at once."""
        return pages_needed(chunks, chunks_a_pass, self.page_tokens, self.window)

    def fits(self, need: tuple[int, int]) -> bool:
        """Whether it could run with all pages to itself."""
        return need[0] <= self.full.size and need[1] <= self.sliding.size

    def lease(self, need: tuple[int, int]) -> Lease | None:
        """Reserve pages for a sequence; None while others have reserved too many."""
        pools = (self.full, self.sliding)
        if any(pool.reserved + pages > pool.size for pool, pages in zip(pools, need, strict=True)):
            return None
        for pool, pages in zip(pools, need, strict=True):
            pool.reserved += pages
        return Lease(need)

    def share_prefix(self, lease: Lease, chunks: Sequence[Chunk]) -> int:
        """Take over what the cache holds of the next chunks of a prompt; returns how many of them."""
        path: list[Node] = []
        known = lease.node.children if lease.node else self._first
        for chunk in chunks if lease.node or not lease.encoded else ():
            if chunk not in known:
                break
            path.append(known[chunk])
            known = path[-1].children
        while path and not self._window_is_kept(path):
            path.pop()
        for node in path:
            self._nodes.move_to_end(node)
            lease.full.append(share(node.full))
            if node.sliding is None:  # nothing up to here is in the window any more
                self._give_back(lease, len(lease.sliding))
                lease.slid += len(node.chunk)
            else:
                lease.sliding.append(share(node.sliding))
            lease.encoded += len(node.chunk)
            lease.node = node
            self.slide(lease)
        self.hit_tokens += sum(len(node.chunk) for node in path)
        return len(path)

    def append(self, lease: Lease, chunk: Chunk, keep: bool) -> tuple[int, int]:
        """The pages for the next chunk of a text; `keep` puts it into the prefix cache, if its prefix is there."""
        known = lease.node.children if lease.node else self._first
        keep = keep and self._keep and (lease.node is not None or not lease.encoded)
        # A known chunk is computed again because its sliding page was given back. Its full page is written anew, with
        # what it holds: a second one would leave the first to the cache, stuck while others hold what follows it.
        node = known.get(chunk) if keep else None
        full = share(node.full) if node else self.full.take(len(chunk))
        sliding = self.sliding.take(len(chunk))
        lease.full.append(full)
        lease.sliding.append(sliding)
        lease.encoded += len(chunk)
        if not keep:
            lease.node = None
        elif node:
            lease.node = node
            if node.sliding is None:
                node.sliding = share(sliding)
        else:
            lease.node = known[chunk] = Node(chunk, lease.node, share(full), share(sliding))
        if lease.node:
            self._nodes[lease.node] = None
            self._nodes.move_to_end(lease.node)
        return full.number, sliding.number

    def slide(self, lease: Lease) -> None:
        """Give back the sliding pages that no row after the encoded text can see."""
        gone, end = 0, lease.slid
        for page in lease.sliding:
            end += page.tokens
            if end > lease.encoded - self.window:
                break
            gone += 1
        self._give_back(lease, gone)

    def end(self, lease: Lease) -> None:
        """A sequence is done: its pages and its reservation return. Its prompt stays in the prefix cache."""
        for page in lease.full:
            self.full.release(page)
        lease.full.clear()
        self._give_back(lease, len(lease.sliding))
        self.full.reserved -= lease.need[0]
        self.sliding.reserved -= lease.need[1]

    def views(self, lease: Lease) -> tuple[View, View]:
        """What a tile after the encoded text sees of it, on full and on sliding layers."""
        full = tuple((page.number, 0, page.tokens) for page in lease.full)
        first, sliding = lease.encoded - self.window - lease.slid, []
        for page in lease.sliding:
            if first < page.tokens:
                sliding.append((page.number, max(0, first), page.tokens))
            first -= page.tokens
        return full, tuple(sliding)

    def _give_back(self, lease: Lease, count: int) -> None:
        for page in lease.sliding[:count]:
            lease.slid += page.tokens
            self.sliding.release(page)
        del lease.sliding[:count]

    def _window_is_kept(self, path: Sequence[Node]) -> bool:
        """Whether the sliding pages before a path's end are there, as far back as the next row sees."""
        seen = 0
        for node in reversed(path):
            if seen >= self.window:
                break
            if node.sliding is None:
                return False
            seen += len(node.chunk)
        return True

    def _forget_chunk(self) -> None:
        node = next(node for node in self._nodes if not node.children and node.full.users == 1)
        del self._nodes[node]
        del (node.parent.children if node.parent else self._first)[node.chunk]
        self.full.release(node.full)
        if node.sliding:
            self.sliding.release(node.sliding)

    def _forget_sliding(self) -> None:
        node = next(node for node in self._nodes if node.sliding and node.sliding.users == 1)
        assert node.sliding
        self.sliding.release(node.sliding)
        node.sliding = None


def pages_needed(chunks: int, chunks_a_pass: int, page_tokens: int, window: int) -> tuple[int, int]:
    """Full and sliding pages that a text of so many chunks holds at once, when a pass encodes at most a few of them."""
    in_window = -(-window // page_tokens) + 2  # its edge cuts one page, and the last one of a prompt is not full
    return chunks, min(chunks, in_window + chunks_a_pass)
