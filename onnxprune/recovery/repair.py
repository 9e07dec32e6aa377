"""A pruned model repaired: the steps of a method one after the other, the best on what is held out stays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import dropwhile, takewhile

import onnx

from onnxprune.analysis.labels import Labelled
from onnxprune.analysis.replay import Removal
from onnxprune.data.moments import Evidence
from onnxprune.data.read import Calibration
from onnxprune.errors import OnnxPruneError
from onnxprune.evaluation.drift import Reference
from onnxprune.oracle.equal import model_differences
from onnxprune.progress import Progress, silent
from onnxprune.recovery.context import LIMIT, ActivationBudget, RecoveryContext, activation_budget, changed
from onnxprune.recovery.methods import RecoveryMethod, methods_up_to
from onnxprune.recovery.windowed_images import windowed


@dataclass(frozen=True)
class Recovery:
    """A repaired model and what the repair did; drift is on the batches held out.

    pruned: the model before it, which was proved. samples: that layers were fitted to or judged on.
    """

    pruned: onnx.ModelProto
    model: onnx.ModelProto
    method: str
    samples: int
    drift_before: float
    drift_after: float

    @cached_property
    def repaired(self) -> dict[str, str]:
        """Name the tensors whose values changed, with the SHA-256 of the new ones.

        Raises OnnxPruneError where a method changed more than values: of that nothing is proved.
        """
        found = changed(self.pruned, self.model)
        others = model_differences(self.pruned, self.model, frozenset(found))
        if others:
            raise OnnxPruneError(
                f"recovery method '{self.method}' may change values of tensors only, but {others[0]}"
            )
        return found


@dataclass(frozen=True)
class Repairs:
    """How pruned versions of one model are repaired, and what is the same for all of them.

    name: of the method; limit: bytes for what is kept between layers and for what is solved; labelled: the
    labels of the original's tensors.
    """

    original: onnx.ModelProto
    name: str
    data: Calibration
    limit: int = LIMIT
    progress: Progress = silent
    labelled: Mapping[str, Labelled] = field(default_factory=dict)

    @cached_property
    def methods(self) -> tuple[RecoveryMethod, ...]:
        """Return the methods to go through, in their order."""
        return methods_up_to(self.name)

    @cached_property
    def reference(self) -> Reference:
        """Return what the original makes of the batches held out."""
        return Reference(self.original, self.data.judge)

    @cached_property
    def walks(self) -> bool:
        """Tell whether a method keeps activations."""
        return any(method.walks for method in self.methods)

    @cached_property
    def seen(self) -> Calibration:
        """Return the data that layers are fitted to: of large images, windows."""
        return windowed(self.original, self.labelled, self.data) if self.walks else self.data

    @cached_property
    def room(self) -> ActivationBudget | None:
        """Return what one batch takes; None where no method keeps activations."""
        return activation_budget(self.original, self.seen.batches, self.limit) if self.walks else None

    @cached_property
    def used(self) -> Calibration:
        """Return the data to repair with: as much as there is room for."""
        return self.seen if self.room is None else self.room.thinned(self.seen)

    def drift(self, model: onnx.ModelProto) -> float:
        """Return the drift of a model on the batches held out."""
        return self.reference.distances(model).worst

    def repaired(self, pruned: onnx.ModelProto, removal: Removal, evidence: Evidence) -> Recovery | None:
        """Repair a model but for what only follows the last step; None where the method repairs nothing.

        evidence: what is known of the model that was cut. Of the models on the way the one of least drift
        stays, and that may be the pruned one.
        """
        if not self.methods:
            return None
        before = self.drift(pruned)
        best = Recovery(pruned, pruned, self.name, self.used.samples, before, before)
        model = pruned
        for method in takewhile(lambda m: not m.at_end, self.methods):
            model = self._by(method, model, removal, evidence)
            best = self._better(best, model)
        return best

    def since(self, pruned: onnx.ModelProto, recovery: Recovery) -> Recovery:
        """Compare a repair in several steps with the model that was proved: what it changed, and gained."""
        before = self.drift(pruned)
        result = replace(recovery, pruned=pruned, drift_before=before)
        return result if recovery.drift_after < before else replace(result, model=pruned, drift_after=before)

    def finished(self, recovery: Recovery, removal: Removal, evidence: Evidence) -> Recovery:
        """Do what follows the last step, where it lowers the drift."""
        for method in dropwhile(lambda m: not m.at_end, self.methods):
            recovery = self._better(recovery, self._by(method, recovery.model, removal, evidence))
        return recovery

    def _better(self, best: Recovery, model: onnx.ModelProto) -> Recovery:
        drift = self.drift(model)
        return replace(best, model=model, drift_after=drift) if drift < best.drift_after else best

    def _by(
        self, method: RecoveryMethod, model: onnx.ModelProto, removal: Removal, evidence: Evidence
    ) -> onnx.ModelProto:
        assert method.repair is not None
        steps = partial(self.progress, method.name)
        context = RecoveryContext(self.original, removal, self.used, evidence, self.room, self.limit, steps)
        return method.repair(context, model)
