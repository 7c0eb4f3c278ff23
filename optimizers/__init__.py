"""From interactions to a better persona."""

from optimizers.alignment import PersonaAlignment
from optimizers.batch import examples
from optimizers.config import PAPER, AlignmentConfig, Plan
from optimizers.gate import Decision, Evidence
from optimizers.record import AlignmentRecord, AlignmentStep, Feedback, Simulation

__all__ = [
    "PAPER",
    "AlignmentConfig",
    "AlignmentRecord",
    "AlignmentStep",
    "Decision",
    "Evidence",
    "Feedback",
    "PersonaAlignment",
    "Plan",
    "Simulation",
    "examples",
]
