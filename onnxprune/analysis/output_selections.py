"""What leaves a node of the shrunk graph: the places that every output keeps."""

from __future__ import annotations

import numpy as np

from onnxprune.analysis.axes import Coords, axis_size, coords_of, ramp
from onnxprune.analysis.labels import OutFactor
from onnxprune.analysis.node_inputs import NodeInputs
from onnxprune.analysis.replay_state import ClashError, Kept
from onnxprune.rules.signature import INDEXED, Axes, Take


def output_selections(arrived: NodeInputs) -> list[Kept | None]:
    """Return what each output keeps, None for outputs without labels.

    Raises ClashError where the shrunk node cannot make them.
    """
    return _OutputSelections(arrived).run()


class _OutputSelections:
    def __init__(self, arrived: NodeInputs) -> None:
        self.arrived, self.met, self.shadow = arrived, arrived.met, arrived.shadow
        self.sizes, self.picked, self.signature = arrived.sizes, arrived.picked, arrived.signature
        self.step = arrived.step

    def run(self) -> list[Kept | None]:
        created: dict[tuple[int, int], Coords | None] = {}
        for out in self.met.outs:
            coords = self._taken(out) if out.take is not None else self._created(out)
            created[out.output, id(out)] = coords
        self._unlabelled_takes()
        self._parts_in_order()
        kept: list[Kept | None] = []
        for number, axes in enumerate(self.signature.outputs):
            labelled = self.met.outputs[number] if number < len(self.met.outputs) else None
            if axes is None or labelled is None or self.step.site.outputs[number] is None:
                kept.append(None)
                continue
            shape = tuple(axis_size(axis, self.sizes) if axis else 1 for axis in axes)
            outs = [out for out in self.met.outs if out.output == number]
            self._others_whole(axes, outs)
            found = tuple(self._axis_coords(out, created[out.output, id(out)]) for out in outs if out.axes)
            kept.append(Kept(shape, found))
        return kept

    def _others_whole(self, axes: Axes, outs: list[OutFactor]) -> None:
        """Check that only the labelled subscripts of an output have shrunk."""
        labelled = {x for out in outs for x in out.block.subscripts}
        for subscript in {x for axis in axes for x in axis} - labelled - self.picked.keys():
            if self.sizes[subscript] != self.met.sizes[subscript]:
                tops = [top.labels.ravel() for top, _ in self.arrived.refs if subscript in top.subscripts]
                labels = np.concatenate(tops) if tops else np.zeros(0, np.int64)
                raise ClashError("an axis whose labels end here shrinks", labels)

    def _created(self, out: OutFactor) -> Coords | None:
        coords = self.arrived.block(out.block)
        if len(out.block.subscripts) == 1 and out.block.subscripts[0] in self.signature.created:
            places = self.shadow.places(out.block)
            assert places is not None
            self.sizes[out.block.subscripts[0]] = len(places)
        return coords

    def _unlabelled_takes(self) -> None:
        """Find what a take without labels picks, such as one channel: all of it must be kept, in order."""
        for name, take in self.signature.takes.items():
            changed = [source for source in take.sources if self.sizes[source] != self.met.sizes[source]]
            if name in self.picked or not changed:
                continue
            if len(take.sources) > 1 or (take.index < 0).any():
                raise ClashError("an axis that is cut by place changes", np.zeros(0, np.int64))
            labels, along = self._along(changed[0])
            place = np.searchsorted(along, take.index).clip(max=len(along) - 1)
            if not (along[place] == take.index).all():
                raise ClashError("an element that is picked by place is removed", labels)
            if take.order != INDEXED and len(place) > 1 and not (np.diff(place) == take.step).all():
                raise ClashError("a part of the axis is no longer in one piece", labels)
            self.picked[name] = place

    def _along(self, source: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the labels of a top that holds a subscript, and the places kept along it, rising."""
        for top, ref in self.arrived.refs:
            if source in top.subscripts:
                coords = self.arrived.derived([source], top, ref)
                places = np.arange(self.met.sizes[source]) if coords is None else coords[source]
                if not (np.diff(places) > 0).all():
                    raise ClashError("elements arrive in another order", top.labels.ravel())
                return top.labels.ravel(), places
        raise ClashError("an axis that is cut by place changes", np.zeros(0, np.int64))

    def _taken(self, out: OutFactor) -> Coords | None:
        name = out.take
        assert name is not None
        take = self.signature.takes[name]
        shared, along, total = self._gathered(take, out)
        if take.order == INDEXED:
            picked, coords = self._indexed(out, take, name, shared, along)
        else:
            picked, coords = self._arrived(out, take, name, shared, along, total)
        self.picked[name] = picked
        self.sizes[name] = len(picked)
        if np.prod([self.sizes[x] for x in out.block.subscripts]) == out.block.labels.size and all(
            self.arrived.whole(coords[x], x, out.block.subscripts) for x in out.block.subscripts
        ):
            return None
        return coords

    def _gathered(self, take: Take, out: OutFactor) -> tuple[Coords, np.ndarray, int]:
        """Concatenate what arrives at the sources: coordinates over (shared…, source).

        The places along the shared subscripts may differ from one place of the source to the next: rows
        that keep as many columns as each other, each its own.
        """
        shared_subscripts: tuple[str, ...] = next(
            tuple(x for x in p.subscripts if x != s)
            for p, s in zip(out.pieces, take.sources, strict=True)
            if p is not None
        )
        parts: dict[str, list[np.ndarray]] = {x: [] for x in shared_subscripts}
        arrays, offset = [], 0
        lead = [self.sizes[x] for x in shared_subscripts]
        for source, piece in zip(take.sources, out.pieces, strict=True):
            full, size = self.met.sizes[source], self.sizes[source]
            coords = None if piece is None else self.arrived.block(piece)
            order = (*shared_subscripts, source)
            if coords is None:
                arrays.append(np.broadcast_to(np.arange(full), (*lead, full)) + offset)
                for x, part in parts.items():
                    part.append(np.broadcast_to(ramp(self.sizes[x], order, x), (*lead, full)))
            else:
                assert piece is not None
                turn = [piece.subscripts.index(x) for x in order]
                arrays.append(coords[source].transpose(turn).reshape(*lead, size) + offset)
                for x, part in parts.items():
                    part.append(coords[x].transpose(turn))
            offset += full
        shared = {x: np.concatenate(part, axis=-1) for x, part in parts.items()}
        return shared, np.concatenate(arrays, axis=-1), offset

    def _arrived(
        self, out: OutFactor, take: Take, name: str, shared: Coords, along: np.ndarray, total: int
    ) -> tuple[np.ndarray, Coords]:
        inverse = np.full(total, -1)
        real = take.index >= 0
        inverse[take.index[real]] = np.flatnonzero(real)
        place = inverse[along]
        inside = place >= 0
        rows = inside.reshape(-1, inside.shape[-1])
        if not (rows == rows[:1]).all():
            raise ClashError("a part of the axis has another length in every row", out.block.labels.ravel())
        picked = np.flatnonzero(rows[0])
        if take.step < 0:
            picked = picked[::-1]
        if len(picked) > 1 and not (np.diff(picked) == take.step).all():
            raise ClashError("a part of the axis is no longer in one piece", out.block.labels.ravel())
        place = place[..., picked]
        if not real.all():
            front, back = self._new_ends(out, real)
            place = np.concatenate([front, place, back])
            picked = np.concatenate([np.full(len(front), -1), picked, np.full(len(back), -1)])
        return picked, self._with_shared(out, {x: a[..., picked] for x, a in shared.items()}, name, place)

    def _new_ends(self, out: OutFactor, real: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        new = np.flatnonzero(~real & self.shadow.alive[out.block.labels])
        first = int(np.flatnonzero(real)[0])
        return new[new < first], new[new > first]

    def _indexed(
        self, out: OutFactor, take: Take, name: str, shared: Coords, along: np.ndarray
    ) -> tuple[np.ndarray, Coords]:
        if name not in out.block.subscripts:
            wanted: np.ndarray = np.broadcast_to(np.zeros(1, np.int64), (*along.shape[:-1], 1))
        else:
            places = self.shadow.places(out.block)
            if places is None:
                raise ClashError("what is kept does not form rows of one length", out.block.labels.ravel())
            full = coords_of(places, out.block.subscripts, self.met.sizes)
            turn = [
                out.block.subscripts.index(x) for x in (*(x for x in out.block.subscripts if x != name), name)
            ]
            wanted = full[name].transpose(turn) if len(turn) > 1 else full[name]
        needed = take.index[wanted].reshape(-1, wanted.shape[-1])
        have = along.reshape(-1, along.shape[-1])
        if len(needed) != len(have):
            raise ClashError("rows of different lengths meet", out.block.labels.ravel())
        order = np.argsort(have[0], kind="stable")
        found = order[np.searchsorted(have[0], needed[0], sorter=order).clip(max=have.shape[1] - 1)]
        if not (have[:, found] == needed).all():
            raise ClashError("rows do not keep the same columns", out.block.labels.ravel())
        return found, self._with_shared(out, {x: a[..., found] for x, a in shared.items()}, name, wanted)

    def _with_shared(self, out: OutFactor, shared: Coords, name: str, place: np.ndarray) -> Coords:
        order = [*shared, name]
        coords: Coords = {**shared, name: place}
        if name not in out.block.subscripts:
            return {x: coords[x][..., 0] for x in out.block.subscripts}
        if tuple(order) != out.block.subscripts:
            turn = [order.index(x) for x in out.block.subscripts]
            coords = {x: array.transpose(turn) for x, array in coords.items()}
        return coords

    def _parts_in_order(self) -> None:
        """Parts cut from one axis must follow each other as they did."""
        by_source: dict[tuple[str, ...], list[np.ndarray]] = {}
        for name, picked in self.picked.items():
            take = self.signature.takes.get(name) or self.signature.placed[name]
            if take.order != INDEXED and len(self.signature.takes) > 1 and len(take.sources) == 1:
                by_source.setdefault(take.sources, []).append(picked)
        for parts in by_source.values():
            whole = np.concatenate(parts)
            if len(parts) > 1 and not (np.diff(whole) > 0).all():
                raise ClashError("parts of an axis change places", np.zeros(0, np.int64))

    def _axis_coords(self, out: OutFactor, coords: Coords | None) -> tuple[np.ndarray, ...] | None:
        if coords is None:
            return None
        axes = self.signature.outputs[out.output]
        assert axes is not None
        if tuple(axes[i] for i in out.axes) == tuple((x,) for x in out.block.subscripts):
            return tuple(coords[x] for x in out.block.subscripts)
        subscripts = [x for i in out.axes for x in axes[i]]
        full: Coords = {}
        own = [x for x in subscripts if x in out.block.subscripts]
        turn = [out.block.subscripts.index(x) for x in own]
        for x in subscripts:
            if x in own:
                array = coords[x].transpose(turn)
                full[x] = array[tuple(slice(None) if y in own else None for y in subscripts)]
            else:
                full[x] = ramp(self.sizes[x], subscripts, x)
        dims = [self.sizes[x] for x in subscripts]
        found = []
        for i in out.axes:
            flat = np.zeros([1] * len(subscripts), np.int64)
            for x in axes[i]:
                flat = flat * self.met.sizes[x] + full[x]
            found.append(
                np.broadcast_to(flat, dims).reshape([axis_size(axes[j], self.sizes) for j in out.axes])
            )
        return tuple(found)
