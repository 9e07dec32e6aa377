"""One node of the trace: its signature read against the labels that arrive.

Operands' factors become blocks over subscripts. Blocks with the same subscripts are tied; a block with
fewer subscripts holds the parents of one with more; blocks that share some subscripts share parents
over these. What is left of a block in the outputs goes on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from onnxprune.analysis.axes import Block, constant_subscripts, joined, split_axes, subscript_sizes, without
from onnxprune.analysis.labels import (
    CARRIES,
    CONSUMES,
    PRODUCES,
    Cluster,
    Entry,
    Factor,
    LabelConstraints,
    Met,
    Operand,
    Pin,
    Slot,
    View,
)
from onnxprune.analysis.output_labels import OutputLabels
from onnxprune.rules.signature import Axes, Axis, Signature, Site

CROSSED = "labels that vary on crossing axes meet"


class NodePropagation:
    """Reads one signature against the operands of one node and writes to the book."""

    def __init__(
        self, book: LabelConstraints, site: Site, signature: Signature, operands: Sequence[Operand | None]
    ) -> None:
        self.book, self.site, self.signature, self.operands = book, site, signature, operands
        self.sizes = subscript_sizes(signature, site.inputs, site.outputs)
        self.kept = signature.kept_subscripts()

    def run(self) -> Met:
        """Tie, adopt and pin; return the record and the labels of the outputs."""
        views = self._frozen_dropped(list(self._views()))
        live = [view for view in views if not view.frozen]
        live += self._fresh(live, views)
        live += self._fed_back(live)
        live += self._placed(live)
        met = [self._cluster(members) for members in _overlapping(live)]
        clusters = [cluster for cluster in met if cluster is not None]
        self._hold(clusters)
        slots = tuple(self._slots([*clusters, *self._held_together()]))
        outs, outputs = OutputLabels(self, clusters).run()
        self._computed_weights(clusters)
        record = tuple(view for view in views if view.factor >= 0)
        return Met(self.signature, self.sizes, record, tuple(clusters), slots, outs, outputs)

    def pin(self, block: Block, operand: int, reason: str) -> None:
        place = self.operands[operand]
        axes = self.signature.inputs[operand] or ()
        axis = next((i for i, a in enumerate(axes) if set(a) & set(block.subscripts)), 0)
        tensor = place.tensor if place is not None else ""
        channels = bool(reason) and not set(block.subscripts) <= set(self.signature.whole)
        self.book.pin(block.labels, Pin(tensor, axis, self.site.name, self.site.op, reason, channels))

    def _views(self) -> Iterator[View]:
        for number, operand in enumerate(self.operands):
            if operand is None or operand.stored is not None:
                continue
            axes = self.signature.inputs[number] if number < len(self.signature.inputs) else None
            for place, factor in enumerate(operand.labelled.factors):
                if axes is None:
                    block = Block(tuple(f"?{a}" for a in factor.axes), factor.labels)
                    self.pin(block, number, f"{self.site.op} reads it as a parameter")
                    continue
                yield self._view(number, place, factor, axes)

    def _view(self, number: int, place: int, factor: Factor, axes: Axes) -> View:
        spelled = joined(axes, factor.axes)
        labels = split_axes(factor.labels, spelled, self.sizes)
        gone: list[str] = []
        for subscript in sorted(self.signature.tied & set(spelled)):
            dim = spelled.index(subscript)
            self.book.tie(labels.take([0], axis=dim), labels)
            gone.append(subscript)
        if len(spelled) > len(factor.axes):
            gone += [subscript for subscript in constant_subscripts(labels, spelled) if subscript not in gone]
        block = without(labels, spelled, gone) if gone else Block(spelled, labels)
        if not block.subscripts:
            self.pin(Block(spelled, labels), number, "all slices of the axis are one channel")
            return View(number, place, Block(spelled, labels), spelled, frozen=True)
        if len(block.subscripts) > 1:
            self.book.grid(block.labels)
        return View(number, place, block, spelled)

    def _fixed_subscripts(self, views: Sequence[View]) -> dict[str, str]:
        labelled: dict[int, set[str]] = {}
        for view in views:
            if not view.frozen:
                labelled.setdefault(view.operand, set()).update(view.block.subscripts)
        fixed: dict[str, str] = dict(self.signature.pins)
        for number, operand in enumerate(self.operands):
            axes = self.signature.inputs[number] if number < len(self.signature.inputs) else None
            if operand is None or axes is None or operand.stored is not None:
                continue
            for axis in axes:
                for subscript in axis:
                    if subscript not in labelled.get(number, ()):
                        fixed.setdefault(subscript, f"meets the fixed axis of '{operand.tensor}'")
        pairs = [(name, take.sources[0]) for name, take in self.signature.placed.items()]
        for pair in pairs:
            for view in views:
                if len(view.block.subscripts) > 1 and set(pair) & set(view.block.subscripts):
                    fixed |= dict.fromkeys(pair, CROSSED)
        for again, once in (*self.signature.fed_back.items(), *pairs):
            for subscript, other in ((again, once), (once, again)):
                if other in fixed:
                    fixed.setdefault(subscript, fixed[other])
        return fixed

    def _frozen_dropped(self, views: list[View]) -> list[View]:
        while True:
            fixed = self._fixed_subscripts(views)
            hit = [
                i
                for i, v in enumerate(views)
                if not v.frozen and any(subscript in fixed for subscript in v.block.subscripts)
            ]
            if not hit:
                self.fixed = fixed
                return views
            for i in hit:
                views[i] = self._held(views[i], fixed)

    def _held(self, view: View, fixed: dict[str, str]) -> View:
        """Tie slices along subscripts that cannot shrink: rows go whole, and are pinned where none remain."""
        block = view.block
        stuck = [subscript for subscript in block.subscripts if subscript in fixed]
        if len(stuck) == len(block.subscripts):
            self.pin(block, view.operand, fixed[stuck[0]])
            return replace(view, frozen=True)
        for subscript in stuck:
            self.book.tie(block.labels.take([0], axis=block.subscripts.index(subscript)), block.labels)
        return replace(view, block=without(block.labels, block.subscripts, stuck))

    def _fresh(self, live: Sequence[View], views: Sequence[View]) -> list[View]:
        covered = {subscript for view in live for subscript in view.block.subscripts}
        covered |= set(self.fixed) | {subscript for view in views for subscript in view.spelled}
        result: list[View] = []
        for number, operand in enumerate(self.operands):
            axes = self.signature.inputs[number] if number < len(self.signature.inputs) else None
            if operand is None or operand.stored is None or axes is None:
                continue
            for subscripts in self._labelled_together(axes):
                if all(subscript in covered for subscript in subscripts) or set(subscripts) & set(self.fixed):
                    continue
                labels = self.book.produce(
                    tuple(self.sizes[subscript] for subscript in subscripts),
                    f"{number}:{' '.join(subscripts)}",
                )
                if len(subscripts) > 1:
                    self.book.grid(labels)
                result.append(View(number, -1, Block(subscripts, labels), subscripts))
                covered.update(subscripts)
        return result

    def _fed_back(self, live: Sequence[View]) -> list[View]:
        """Show an operand that reads what the node produced the labels of that, under its own subscript."""
        result: list[View] = []
        for again, once in self.signature.fed_back.items():
            readers = [i for i, axes in enumerate(self.signature.inputs) if axes and (again,) in axes]
            for view in (v for v in live if once in v.block.subscripts):
                subscripts = tuple(again if x == once else x for x in view.block.subscripts)
                block = Block(subscripts, view.block.labels)
                result += [View(number, -1, block, subscripts) for number in readers]
        return result

    def _placed(self, live: Sequence[View]) -> list[View]:
        """Show an operand that is written to places of an axis the labels that are there."""
        result: list[View] = []
        for name, take in self.signature.placed.items():
            there = next((v.block for v in live if v.block.subscripts == take.sources), None)
            if there is not None:
                block = Block((name,), there.labels[take.index])
                readers = [i for i, axes in enumerate(self.signature.inputs) if axes and (name,) in axes]
                result += [View(number, -1, block, (name,)) for number in readers]
        return result

    def _hold(self, clusters: Sequence[Cluster]) -> None:
        """Pin the parents over the subscripts that do not shrink."""
        for subscript, reason in self.signature.whole.items():
            for cluster in clusters:
                for block in self.restricted(cluster, {subscript}):
                    self.pin(block, cluster.views[0].operand, reason)

    def _held_together(self) -> Iterator[Cluster]:
        """Label what is numbered together and meets a fixed axis, so that it can be said why it stays.

        The hidden units of an LSTM whose state is an input of the model: nothing else holds them here, and
        what the node puts out has a fixed axis there.
        """
        for axis in self.signature.together:
            subscripts = tuple(x for x in axis if self.sizes[x] > 1)
            reason = next((self.fixed[x] for x in subscripts if self.fixed.get(x)), "")
            makers = (i for i, o in enumerate(self.operands) if o is not None and o.stored is not None)
            held = {i: {x for a in self.signature.inputs[i] or () for x in a} for i in makers}
            maker = next((i for i, own in held.items() if own & set(subscripts)), None)
            if not reason or maker is None:
                continue
            shape = tuple(self.sizes[x] for x in subscripts)
            block = Block(subscripts, self.book.produce(shape, f"{maker}:{' '.join(subscripts)}"))
            self.pin(block, maker, reason)
            yield Cluster([View(maker, -1, block, subscripts)], [block])

    def _labelled_together(self, axes: Axes) -> list[Axis]:
        """Group the subscripts of a stored constant that share an axis here or in an output."""
        present = [x for axis in axes for x in axis if x in self.kept and self.sizes[x] > 1]
        sides = (axes, self.signature.together, *(o for o in self.signature.outputs if o))
        shared = [set(axis) for side in sides for axis in side]
        groups: list[set[str]] = []
        for subscript in present:
            group = {subscript}.union(*(axis & set(present) for axis in shared if subscript in axis))
            overlapping = [g for g in groups if g & group]
            groups = [g for g in groups if not g & group] + [group.union(*overlapping)]
        return [tuple(x for x in present if x in group) for group in groups]

    def _cluster(self, views: list[View]) -> Cluster | None:
        blocks: list[Block] = []
        for view in views:
            same = next((b for b in blocks if set(b.subscripts) == set(view.block.subscripts)), None)
            if same is None:
                blocks.append(view.block)
            else:
                self.book.tie(same.labels, view.block.arranged(same.subscripts))
        tops = [b for b in blocks if not any(set(b.subscripts) < set(other.subscripts) for other in blocks)]
        parents = [b for b in blocks if not any(b is top for top in tops)]
        cluster = Cluster(views, tops, parents)
        for parent in parents:
            for top in tops:
                if set(parent.subscripts) < set(top.subscripts):
                    self._adopt(parent, top)
        if len(tops) > 1 and not self._share_parents(cluster):
            for view in views:
                if view.factor >= 0:
                    self.pin(view.block, view.operand, CROSSED)
                else:
                    self.pin(view.block, view.operand, "its channels cross those of the input")
            return None
        return cluster

    def _computed_weights(self, clusters: Sequence[Cluster]) -> None:
        """Note labels over channels that are summed over and channels that are made, both of them parents.

        An operand that the output keeps more of, such as tokens, is no weight.
        """
        for cluster in clusters:
            top = cluster.tops[0]
            axes = [self.signature.inputs[view.operand] or () for view in cluster.views if view.block is top]
            beside = {x for spelled in axes for axis in spelled for x in axis} - set(top.subscripts)
            if beside & set(self.kept):
                continue
            ended = {x for x in top.subscripts if x not in self.kept}
            sides = [ended, set(top.subscripts) - ended]
            found = [next((b for b in cluster.parents if set(b.subscripts) == side), None) for side in sides]
            if len(cluster.tops) == 1 and None not in found:
                self.book.matrix(top.labels, [block.labels for block in found if block is not None])

    def _adopt(self, parent: Block, top: Block) -> None:
        rest = [subscript for subscript in top.subscripts if subscript not in parent.subscripts]
        self.book.adopt(parent.labels, top.arranged([*parent.subscripts, *rest]))

    def _share_parents(self, cluster: Cluster) -> bool:
        common = set.intersection(*(set(top.subscripts) for top in cluster.tops))
        for i, top in enumerate(cluster.tops):
            for other in cluster.tops[i + 1 :]:
                if set(top.subscripts) & set(other.subscripts) != common:
                    return False
        if not common:
            return False
        self._over(
            cluster,
            cluster.tops[0],
            [subscript for subscript in cluster.tops[0].subscripts if subscript in common],
        )
        return True

    def _over(self, cluster: Cluster, top: Block, subscripts: Sequence[str]) -> Block:
        """Return the block over these subscripts of a top: itself, or its parents."""
        if len(subscripts) == len(top.subscripts):
            return top
        for block in cluster.parents:
            if set(block.subscripts) == set(subscripts):
                return block
        labels = self.book.fresh(
            tuple(self.sizes[subscript] for subscript in subscripts), " ".join(subscripts)
        )
        block = Block(tuple(subscripts), labels)
        cluster.parents.append(block)
        for other in cluster.tops:
            if set(subscripts) < set(other.subscripts):
                self._adopt(block, other)
        return block

    def restricted(self, cluster: Cluster, subscripts: set[str]) -> list[Block]:
        found: list[Block] = []
        for top in cluster.tops:
            common = [subscript for subscript in top.subscripts if subscript in subscripts]
            if common:
                found.append(self._over(cluster, top, common))
        found = [b for b in found if not any(set(b.subscripts) < set(o.subscripts) for o in found)]
        unique: list[Block] = []
        for block in found:
            if not any(block is other for other in unique):
                unique.append(block)
        return unique

    def _makes(self, number: int, block: Block) -> bool:
        """Tell whether a stored operand is the first to hold subscripts that are numbered together.

        It makes these channels even where a state made of zeros was labelled before it.
        """
        own = {x for axis in self.signature.together for x in axis}
        if not own or not set(block.subscripts) <= own:
            return False
        holders = (
            i
            for i, operand in enumerate(self.operands)
            if operand is not None
            and operand.stored is not None
            and any(own & set(axis) for axis in self.signature.inputs[i] or ())
        )
        return number == next(holders)

    def _slots(self, clusters: Sequence[Cluster]) -> Iterator[Slot]:
        for number, operand in enumerate(self.operands):
            axes = self.signature.inputs[number] if number < len(self.signature.inputs) else None
            if operand is None or operand.stored is None or axes is None:
                continue
            subscripts = {subscript for axis in axes for subscript in axis}
            entries = []
            for cluster in clusters:
                for block in self.restricted(cluster, subscripts):
                    made = any(
                        v.operand == number and v.factor < 0 and v.block is block for v in cluster.views
                    )
                    kept = all(subscript in self.kept for subscript in block.subscripts)
                    made = made or self._makes(number, block)
                    role = CONSUMES if not kept else PRODUCES if made else CARRIES
                    entries.append(Entry(block, role))
            if entries:
                yield Slot(operand.stored, number, axes, tuple(entries))


def _overlapping(views: Sequence[View]) -> list[list[View]]:
    """Group the views that are linked by shared subscripts."""
    groups: list[tuple[set[str], list[View]]] = []
    for view in views:
        subscripts, members = set(view.block.subscripts), [view]
        rest = []
        for other_subscripts, other_members in groups:
            if subscripts & other_subscripts:
                subscripts |= other_subscripts
                members = other_members + members
            else:
                rest.append((other_subscripts, other_members))
        groups = [*rest, (subscripts, members)]
    return [members for _, members in groups]
