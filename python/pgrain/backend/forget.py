"""forget: erase what is stored about training rows.

The worker does it, in a transaction of its own: the arrays are its, and it has them in memory.
"""

from __future__ import annotations

from pgrain.backend import describe, session
from pgrain.backend.models import require_model
from pgrain.backend.spi import entry_point, query
from pgrain.errors import ActiveTransaction, InvalidArgument


@entry_point
def forget(plpy, name: str, keys: list[str]) -> int:
    """How many of the keys any version had learned or any edit named."""
    if None in keys:
        raise InvalidArgument("a training key is null")
    require_model(plpy, name)
    if query(plpy, "SELECT pg_catalog.pg_current_xact_id_if_assigned() IS NOT NULL AS written"
             )[0]["written"]:
        raise ActiveTransaction(
            "forget cannot run in a transaction that has written",
            detail="It commits by itself, and would miss what this transaction has not committed.",
            hint="Commit first.")
    by = query(plpy, "SELECT current_user::text AS role")[0]["role"]
    answer, _ = session.call(plpy, "forget", {"model": name, "keys": keys, "by": by})
    describe.forget_landmarks()
    # A statement of its own begins with its transaction; one after BEGIN, later.
    if query(plpy, "SELECT pg_catalog.now() < pg_catalog.statement_timestamp() AS block"
             )[0]["block"]:
        plpy.notice("what was forgotten is erased for good, also if this transaction is rolled "
                    "back")
    return answer["rows"]
