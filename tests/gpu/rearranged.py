"""Tiles of one pass in another: fewer of them, in other places, of sequences in other slots."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from dgbatch.bench.kernels.case import CANVAS_ROWS, CHOICES, LISTS, POOL, ROWS, SPAN, Arguments, Case
from dgbatch.bench.kernels.seats import Company
from dgbatch.engine.kernels.reference.products import group_rows
from dgbatch.engine.kernels.tables import Of, Slots, Tiles


@dataclass(frozen=True, slots=True)
class Pass:
    """Which tiles of a company are in it, and in which slot each seat is."""

    company: Company
    kept: tuple[int, ...]  # tiles of the company, chunks before canvases
    room: int
    order: tuple[int, ...]  # seats of the company by slot

    @classmethod
    def whole(cls, company: Company) -> Pass:
        return cls(company, tuple(range(len(company.table))), company.tiles, tuple(range(len(company.seats))))

    @property
    def table(self) -> list[list[int]]:
        tiles = [list(self.company.table[tile]) for tile in self.kept]
        for tile in tiles:
            tile[Of.SLOT] = self.order.index(tile[Of.SLOT])
        return tiles

    def of(self, case: Case, arguments: Arguments) -> Arguments:
        """Arguments of the company's own pass as those of this one."""
        rearranged = [self._argument(one, case.inputs.get(at)) for at, one in enumerate(arguments)]
        lists = [at for at, kind in case.inputs.items() if kind == LISTS]
        if lists:
            counts, places = (arguments[at] for at in lists)
            rearranged[lists[0]], rearranged[lists[1]] = self._grouped(counts, places, case.shape.chosen)
        return tuple(rearranged)

    def results(self, case: Case, arguments: Arguments, returned: Any, tile: int) -> dict[str, Tensor]:
        """What a call made of one of the company's tiles: of its rows, its pages and its slot."""
        place, size = self.kept.index(tile), self.company.tile_rows
        own = self.table[place]
        first = place - self._chunks if own[Of.CANVAS] else None
        told = {}
        returned = returned if isinstance(returned, tuple) else (returned,)
        for (name, kind), tensor in zip(case.outputs.items(), returned if case.outputs else (), strict=True):
            if kind in (ROWS, CHOICES):
                by_row = tensor.unflatten(0, (self.room * size, -1)) if kind == CHOICES else tensor
                told[name] = by_row[place * size :][: own[Of.ROWS]]
            if kind == CANVAS_ROWS and first is not None:
                told[name] = tensor[first * size :][: own[Of.ROWS]]
        for name, find in case.writes.items():
            if name.startswith("slots."):
                told[name] = find(arguments)[own[Of.SLOT]]
            if name == "pool":
                told[name] = find(arguments)[self._page(case, arguments, own)]
        return told

    def _argument(self, one: Any, kind: str | None) -> Any:
        company, size = self.company, self.company.tile_rows
        if isinstance(one, Tiles):
            return self._tiles(one)
        if isinstance(one, Slots):
            return self._slots(one)
        if kind == SPAN:
            return torch.tensor([0, len(self.kept) * size], dtype=torch.int32, device=one.device)
        if kind == POOL:
            canvases = company.pages + torch.tensor(self.order, device=one.device)
            return torch.cat([one[: company.pages], one[canvases]])
        if kind in (ROWS, CHOICES):
            by_tile = one.unflatten(0, (company.tiles, -1))
            moved = torch.full_like(by_tile[:1].expand(self.room, *by_tile.shape[1:]), _nothing(one))
            moved[: len(self.kept)] = by_tile[list(self.kept)]
            return moved.flatten(0, 1)
        if kind == CANVAS_ROWS:
            by_tile = one.unflatten(0, (company.canvas_room, -1))
            chosen = [tile - (len(company.table) - company.canvases) for tile in self.kept[self._chunks :]]
            moved = torch.full_like(by_tile, _nothing(one))
            moved[: len(chosen)] = by_tile[chosen]
            return moved.flatten(0, 1)
        return one

    @property
    def _chunks(self) -> int:
        return sum(not self.company.table[tile][Of.CANVAS] for tile in self.kept)

    def _tiles(self, own: Tiles) -> Tiles:
        size, table = self.company.tile_rows, torch.zeros(self.room, 8, dtype=torch.int32)
        temperature, of_slot = torch.ones(self.room), torch.tensor([[-1, 0]] * len(self.order), dtype=torch.int32)
        for place, tile in enumerate(self.table):
            table[place] = torch.tensor(tile, dtype=torch.int32)
            temperature[place] = own.temperature[self.kept[place]]
            if tile[Of.CANVAS]:
                of_slot[tile[Of.SLOT], 0] = place - self._chunks
            else:
                of_slot[tile[Of.SLOT], 1] += 1
        end = len(self.kept) * size
        spans = torch.tensor([[0, end, 0, 0], [self._chunks * size, end, 0, 0]], dtype=torch.int32)
        return Tiles(*(one.to(own.device) for one in (table, temperature, spans, of_slot)))

    def _slots(self, own: Slots) -> Slots:
        order = torch.tensor(self.order, device=own.device)
        moved = {field.name: getattr(own, field.name) for field in fields(own)}
        for name, tensor in moved.items():
            if name not in ("pages", "end_ids"):
                moved[name] = tensor.index_select(0, order)
        return replace(own, **moved | {"pages": own.pages.index_select(1, order)})

    def _grouped(self, counts: Tensor, places: Tensor, chosen: int) -> tuple[Tensor, Tensor]:
        index = torch.full((self.company.rows * chosen,), -1, dtype=torch.int32, device=counts.device)
        for expert, count in enumerate(counts.tolist()):
            index[places[expert, :count].long()] = expert
        span = torch.tensor([0, len(self.kept) * self.company.tile_rows])
        with counts.device:
            return group_rows(self._argument(index.view(-1, chosen), ROWS), len(counts), span)

    def _page(self, case: Case, arguments: Arguments, tile: list[int]) -> int:
        if tile[Of.CANVAS]:
            return self.company.pages + tile[Of.SLOT]
        slots = next(one for one in arguments if isinstance(one, Slots))
        sliding = next(one for one in arguments if isinstance(one, bool))
        return int(slots.pages[int(sliding), tile[Of.SLOT], tile[Of.CHUNK]])


def _nothing(like: Tensor) -> float:
    return float("nan") if like.is_floating_point() else -1
