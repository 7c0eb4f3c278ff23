"""Does it work, and how sure are we: methods, LaMP's tasks, runs, statistics, reports.

The exported names are listed in ``__init__.pyi`` and imported when they are first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

from program.renamed import install as _install_old_names  # noqa: E402 - after the exports

_install_old_names()
