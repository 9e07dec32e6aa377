"""What arrives at a node of the shrunk graph: sizes of subscripts and the places that operands keep."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from onnxprune.analysis.axes import Block, Coords, coords_of, same_coords
from onnxprune.analysis.labels import Met, View
from onnxprune.analysis.replay_state import ClashError, ReplayState
from onnxprune.analysis.trace import Step
from onnxprune.rules.signature import Signature


class NodeInputs:
    """The operands of one node, checked against each other.

    sizes: of subscripts after the removal; refs: the places kept of every top, None where all are;
    picked: what every take picked, filled in when the outputs are made.
    """

    def __init__(self, shadow: ReplayState, step: Step, met: Met) -> None:
        self.shadow, self.step, self.met = shadow, step, met
        self.signature: Signature = met.signature
        self.sizes = dict(met.sizes)
        self.refs: list[tuple[Block, Coords | None]] = []
        self.picked: dict[str, np.ndarray] = {}
        self._read_sizes()
        self._read_views()
        self._check_parents()
        self._check_rows()
        self._read_placed()

    def _read_sizes(self) -> None:
        seen: dict[str, int] = {}
        for cluster in self.met.clusters:
            for top in cluster.tops:
                places = self.shadow.places(top)
                if places is None:
                    raise ClashError("what is kept does not form rows of one length", top.labels.ravel())
                if places.size == 0:
                    raise ClashError("nothing is kept of an axis", top.labels.ravel())
                for subscript, size in zip(top.subscripts, places.shape, strict=True):
                    if seen.setdefault(subscript, size) != size:
                        raise ClashError("rows of different lengths meet", top.labels.ravel())
                    if size != self.met.sizes[subscript] and subscript in self.signature.whole:
                        raise ClashError("an axis that stays whole loses a part", top.labels.ravel())
        self.sizes |= seen

    def _read_views(self) -> None:
        arrived: dict[int, Coords | None] = {}
        for view in self.met.views:
            coords = self._arriving(view)
            if view.frozen:
                if coords is not None:
                    raise ClashError("a frozen axis arrives in another order", view.block.labels.ravel())
                continue
            top = self._own_top(view)
            if top is None:
                continue
            if id(top) not in arrived:
                arrived[id(top)] = coords
            elif not same_coords(arrived[id(top)], coords):
                raise ClashError(
                    "operands keep different channels at the same place", view.block.labels.ravel()
                )
        for cluster in self.met.clusters:
            for top in cluster.tops:
                coords = arrived[id(top)] if id(top) in arrived else self._natural(top)
                self.refs.append((top, coords))
        self.refs = [(top, self._fed_back(top, coords, id(top) in arrived)) for top, coords in self.refs]

    def _fed_back(self, top: Block, coords: Coords | None, arrives: bool) -> Coords | None:
        """Return the places of a block: where the node reads its own product, those that it produces."""
        once = {x: self.signature.fed_back.get(x, x) for x in top.subscripts}
        if not set(once) & set(self.signature.fed_back):
            return coords
        subscripts = tuple(once.values())
        made = next((ref for block, ref in self.refs if block.subscripts == subscripts), None)
        own = None if made is None else {x: made[once[x]] for x in top.subscripts}
        if arrives and not same_coords(own, coords):
            raise ClashError("what is fed back is not what is produced", top.labels.ravel())
        return own

    def _own_top(self, view: View) -> Block | None:
        for cluster in self.met.clusters:
            for top in cluster.tops:
                if set(top.subscripts) == set(view.block.subscripts) and any(
                    v is view for v in cluster.views
                ):
                    return top
        return None

    def _natural(self, block: Block) -> Coords | None:
        places = self.shadow.places(block)
        assert places is not None
        if places.size == block.labels.size:
            return None
        return coords_of(places, block.subscripts, self.met.sizes)

    def _arriving(self, view: View) -> Coords | None:
        operand = self.step.operands[view.operand]
        assert operand is not None
        factor = operand.labelled.factors[view.factor]
        kept = self.shadow.kept(operand.tensor).coords[view.factor]
        if kept is None:
            return None
        axes = self.signature.inputs[view.operand]
        assert axes is not None
        if len(view.spelled) == 1:
            return {view.spelled[0]: kept[0]}
        dims = [self.sizes[subscript] for subscript in view.spelled]
        if np.prod(dims) != kept[0].size:
            raise ClashError("what arrives does not fit the rows that are kept", view.block.labels.ravel())
        coords: Coords = {}
        for array, axis in zip(kept, factor.axes, strict=True):
            parts = np.unravel_index(array, [self.met.sizes[subscript] for subscript in axes[axis]])
            coords |= {
                subscript: part.reshape(dims) for subscript, part in zip(axes[axis], parts, strict=True)
            }
        return self._reduced(coords, view)

    def _reduced(self, coords: Coords, view: View) -> Coords:
        """Drop the subscripts that carry no labels, after checking that they are whole and in order."""
        gone = [subscript for subscript in view.spelled if subscript not in view.block.subscripts]
        for dim, subscript in enumerate(view.spelled):
            if subscript in gone:
                ramp = np.arange(self.sizes[subscript]).reshape(
                    [-1 if i == dim else 1 for i in range(len(view.spelled))]
                )
                if not (coords[subscript] == ramp).all():
                    raise ClashError("elements of a channel are out of order", view.block.labels.ravel())
        index = tuple(slice(0, 1) if subscript in gone else slice(None) for subscript in view.spelled)
        found: Coords = {}
        for subscript in view.block.subscripts:
            first = coords[subscript][index]
            if gone and not (coords[subscript] == first).all():
                raise ClashError("a channel is torn apart", view.block.labels.ravel())
            squeezed = first.reshape([self.sizes[x] for x in view.block.subscripts])
            found[subscript] = squeezed
        return self._ordered(found, view)

    def _ordered(self, coords: Coords, view: View) -> Coords:
        """Arrange the dimensions as those of the top that the view belongs to."""
        top = self._own_top(view)
        if top is None or top.subscripts == view.block.subscripts:
            return coords
        order = [view.block.subscripts.index(subscript) for subscript in top.subscripts]
        return {subscript: array.transpose(order) for subscript, array in coords.items()}

    def _check_parents(self) -> None:
        """Check that views over fewer subscripts, and tops that share subscripts, agree on these."""
        for cluster in self.met.clusters:
            tops = [(top, ref) for top, ref in self.refs if any(top is t for t in cluster.tops)]
            for view in cluster.views:
                if view.factor < 0 or self._own_top(view) is not None:
                    continue
                mine = self._arriving(view)
                for top, ref in tops:
                    if set(view.block.subscripts) <= set(top.subscripts):
                        self._agree(view.block.subscripts, mine, top, ref)
            for (top, ref), (other, other_ref) in pairwise(tops):
                common = tuple(x for x in top.subscripts if x in other.subscripts)
                self._agree(common, self.derived(common, top, ref), other, other_ref)

    def _check_rows(self) -> None:
        """Check that a statistic or sum along some subscripts is taken over one row of the others."""
        along = self.signature.normalised | self.signature.inner
        for top, ref in self.refs:
            rest = [x for x in top.subscripts if x not in along]
            if rest and len(rest) < len(top.subscripts):
                self.derived(rest, top, ref)

    def _read_placed(self) -> None:
        """Find where what is written to places of an axis goes, once that axis and it have shrunk."""
        for name, take in self.signature.placed.items():
            own, there = (self._places_of(x) for x in (name, take.sources[0]))
            wanted = take.index[own]
            order = np.argsort(there, kind="stable")
            found = order[np.searchsorted(there, wanted, sorter=order).clip(max=len(there) - 1)]
            if not np.array_equal(there[found], wanted) or np.isin(take.index, there).sum() != len(own):
                tops = [top.labels.ravel() for top, _ in self.refs if name in top.subscripts]
                raise ClashError("what is written is not what is there", np.concatenate(tops))
            self.picked[name] = found

    def _places_of(self, subscript: str) -> np.ndarray:
        """Return the places kept along a subscript that no other shares a block with."""
        coords = next((ref for top, ref in self.refs if top.subscripts == (subscript,)), None)
        return np.arange(self.met.sizes[subscript]) if coords is None else coords[subscript]

    def _agree(self, subscripts: Sequence[str], mine: Coords | None, top: Block, ref: Coords | None) -> None:
        if not same_coords(mine, self.derived(subscripts, top, ref)):
            raise ClashError("rows that belong together are kept differently", top.labels.ravel())

    def derived(self, subscripts: Sequence[str], top: Block, ref: Coords | None) -> Coords | None:
        """Restrict coordinates over a top to some of its subscripts."""
        if ref is None or len(subscripts) == len(top.subscripts):
            return ref
        index = tuple(slice(None) if x in subscripts else slice(0, 1) for x in top.subscripts)
        result: Coords = {}
        for subscript in subscripts:
            first = ref[subscript][index]
            if not (ref[subscript] == first).all():
                raise ClashError("rows do not keep the same columns", top.labels.ravel())
            own = [x for x in top.subscripts if x in subscripts]
            array = first.reshape([self.sizes[x] for x in own])
            result[subscript] = (
                array.transpose([own.index(x) for x in subscripts]) if own != list(subscripts) else array
            )
        if all(self.whole(result[x], x, subscripts) for x in subscripts):
            return None
        return result

    def whole(self, coords: np.ndarray, subscript: str, subscripts: Sequence[str]) -> bool:
        size = self.met.sizes[subscript]
        if self.sizes[subscript] != size:
            return False
        dim = list(subscripts).index(subscript)
        return bool(
            (coords == np.arange(size).reshape([-1 if i == dim else 1 for i in range(len(subscripts))])).all()
        )

    def block(self, block: Block) -> Coords | None:
        """Return the coordinates of a block: of a top, or derived for parents."""
        for top, ref in self.refs:
            if block is top:
                return ref
        for top, ref in self.refs:
            if set(block.subscripts) < set(top.subscripts):
                return self.derived(block.subscripts, top, ref)
        return self._natural(block)
