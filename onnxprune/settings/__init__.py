"""What a user asks for: settings, each with all that is known of it at its field."""

from onnxprune.settings.prune import PruneSettings
from onnxprune.settings.sensitivity import SensitivitySettings

__all__ = ["PruneSettings", "SensitivitySettings"]
