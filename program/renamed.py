"""Names of version 0.1 that still work, each with a `DeprecationWarning` that says the new one.

`install` lets old modules be imported; `find_renamed` finds old names in a module's ``__getattr__``.
To end the support of version 0.1, delete this file and its uses.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, ClassVar

MODULES: Mapping[str, str] = {
    "eval.folder": "eval.run_folder",
    "eval.methods.final": "eval.methods.final_answer",
    "eval.methods.floors": "eval.methods.baselines",
    "eval.methods.learned": "eval.methods.profiles",
    "eval.methods.lookup": "eval.methods.retrieval",
    "eval.methods.rival": "eval.methods.dspy_optimizer",
    "eval.report.make": "eval.report.build",
    "eval.subjects": "eval.user_view",
    "optimizers.batch": "optimizers.trainset",
    "optimizers.gate": "optimizers.gates",
    "optimizers.interop": "optimizers.dspy_optimizers",
    "program.cli.talk": "program.cli.ask",
    "program.ledger": "program.usage",
    "program.models.draws": "program.models.seeds",
    "program.models.evidence": "program.models.label_probabilities",
    "program.models.repeats": "program.models.cache",
    "program.models.requantised": "program.models.requantize",
    "program.models.server": "program.models.llama_server",
    "program.tools.text": "program.text",
    "program.tracing.door": "program.tracing.server.http_server",
    "program.tracing.inspect": "program.tracing.view.reader",
    "program.tracing.render": "program.tracing.view.terminal",
    "program.tracing.store": "program.tracing.server",
    "program.tracing.weave_tracer": "program.tracing.weave.tracer",
}
"""Old module to new module."""

NAMES: Mapping[str, str] = {
    "Door": "program.tracing.server.http_server:TraceServer",
    "Ledger": "program.usage:UsageTracker",
    "Rehearsal": "optimizers.dspy_optimizers:OptimizableAgent",
    "Simulation": "optimizers.record:Rollout",
    "Subject": "eval.contracts:UserView",
    "Surroundings": "program.agent:AgentContext",
    "about": "program.spans:about",
    "accounting": "program.usage:track_usage",
    "checked": "program.persona:validate_persona",
    "current_ledger": "program.usage:current_tracker",
    "inspect": "program.tracing.view.reader:",
    "metered": "program.usage:track_lm",
    "span": "program.spans:span",
    "stable": "program.persona:normalize",
    "tracing": "program.spans:tracing",
}
"""Old name to ``module:new name``; an empty new name is the module itself."""


def find_renamed(module: str, name: str) -> Any:
    """Return what an old name of a module is called now.

    Raises:
        AttributeError: The module never had such a name.
    """
    if name not in NAMES:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    home, _, new = NAMES[name].partition(":")
    _warn(f"{module}.{name}", f"{home}.{new}" if new else home)
    module_now = import_module(home)
    return getattr(module_now, new) if new else module_now


class RenamedAttributes:
    """Mixed into a class whose attributes have new names: old ones still read, with a warning."""

    _renamed: ClassVar[Mapping[str, str]] = {}

    def __getattr__(self, name: str) -> Any:
        new = type(self)._renamed.get(name)
        if new is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        _warn(f"{type(self).__name__}.{name}", f"{type(self).__name__}.{new}")
        return getattr(self, new)


class _Alias(ModuleType):
    """An old module: the names of the new one, and the old names that moved out of it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        try:
            return getattr(import_module(MODULES[self.__name__]), name)
        except AttributeError:
            return find_renamed(self.__name__, name)


class _Finder(MetaPathFinder, Loader):
    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name in MODULES else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        _warn(spec.name, MODULES[spec.name])
        return _Alias(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to run: names are found when they are used."""


def install() -> None:
    """Let the modules of version 0.1 be imported. Installing twice changes nothing."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())


def _warn(old: str, new: str) -> None:
    warnings.warn(f"`{old}` is now `{new}`; the old name goes in 0.3", DeprecationWarning, stacklevel=3)
