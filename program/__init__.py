"""The agent of one user: everything needed to answer.

The exported names are listed in ``__init__.pyi`` and imported when they are first used.
"""

import os

import lazy_loader

# Without this LiteLLM fetches its table of prices from the network when it is imported.
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

from program.renamed import install as _install_old_names  # noqa: E402 - after the exports

_install_old_names()
