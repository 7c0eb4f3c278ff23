"""The providers' batch APIs: half the price for a day's patience.

A call of an alignment waits in `collector` until no alignment can go on without an answer. Then all that wait
become a batch, which `providers` submit, look for after a crash, and read. `tables` keeps what was asked and
answered, so that a killed run neither submits a batch twice nor asks again. `models` puts all this behind a
`dspy.LM`; `engine` names each call by the piece of work that makes it.
"""

from __future__ import annotations

from pathlib import Path

from optimizers.fleet.place import is_sqlite
from program.store import UserStore

FILE = "fleet-batches.db"
"""The tables of a store that is a file, in the data directory."""


def forget_answers(store: UserStore, user_id: str, home: Path) -> int:
    """Delete a user's answers from the tables of batches, if there are any; return how many there were.

    Raises:
        StoreError: The tables cannot be opened.
    """
    if is_sqlite(store) and not (home / FILE).exists():
        return 0
    from optimizers.fleet.batch_api.tables import forget_user

    return forget_user(store, user_id, home)
