"""The triggers by which the database itself refuses an illegal row, written from the tables in :mod:`core.states`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import LiteralString

from psycopg import sql

from core.states import JOB_TRANSITIONS, TASK_TRANSITIONS, JobStatus, TaskStatus
from infrastructure.postgres.database import ILLEGAL_TRANSITION, Connection

Transitions = Mapping[JobStatus, frozenset[JobStatus]] | Mapping[TaskStatus, frozenset[TaskStatus]]


@dataclass(frozen=True, slots=True)
class Guard:
    """Triggers that refuse what a row of a table must not be, and status changes that the table of transitions lacks.

    Not a CHECK and not a trigger's WHEN where rows are updated: PostgreSQL reads those again from their text for every
    statement, a function once for each connection. Rows are inserted many at a time, and there a WHEN costs less.
    """

    table: LiteralString
    transitions: Transitions
    invariant: LiteralString  # of NEW
    columns: LiteralString  # that it and the transitions are about

    def put_up(self, connection: Connection) -> None:
        """Write the triggers, unless they are there already."""
        qualified = sql.Identifier("app", self.table)
        function = sql.Identifier("app", f"guard_{self.table}")
        body = self._body()
        known = self._known()
        whole = f"{body.as_string(connection)}\n{known.as_string(connection)}\n{self.columns}"
        digest = hashlib.sha256(whole.encode()).hexdigest()
        found = connection.execute(
            "SELECT obj_description(oid, 'pg_trigger') AS digest FROM pg_trigger"
            " WHERE tgrelid = to_regclass(%s) AND tgname = 'guard_status'",
            [f"app.{self.table}"],
        ).fetchone()
        if found is not None and found["digest"] == digest:
            return
        for statement in (
            sql.SQL("CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS {body}"),
            sql.SQL(
                "CREATE OR REPLACE TRIGGER guard_status BEFORE UPDATE OF {columns} ON {table} FOR EACH ROW"
                " EXECUTE FUNCTION {function}()"
            ),
            sql.SQL(
                "CREATE OR REPLACE TRIGGER guard_insert BEFORE INSERT ON {table} FOR EACH ROW WHEN (NOT ({known}))"
                " EXECUTE FUNCTION {function}()"
            ),
            sql.SQL("ALTER TABLE {table} DROP CONSTRAINT IF EXISTS known_status"),
            sql.SQL("COMMENT ON TRIGGER guard_status ON {table} IS {digest}"),
        ):
            connection.execute(
                statement.format(
                    table=qualified,
                    function=function,
                    body=sql.Literal(body.as_string(connection)),
                    known=known,
                    columns=sql.SQL(self.columns),
                    digest=sql.Literal(digest),
                )
            )

    def _body(self) -> sql.Composed:
        legal = sql.SQL(" OR ").join(
            sql.SQL("(OLD.status = {} AND NEW.status IN ({}))").format(
                sql.Literal(str(before)), sql.SQL(", ").join(sql.Literal(str(after)) for after in sorted(following))
            )
            for before, following in self.transitions.items()
            if following
        )
        return sql.SQL(
            """
            BEGIN
              IF TG_OP = 'UPDATE' AND OLD.status IS DISTINCT FROM NEW.status AND NOT ({legal}) THEN
                RAISE EXCEPTION 'a row of app.% cannot go from % to %', TG_TABLE_NAME, OLD.status, NEW.status
                  USING ERRCODE = {illegal};
              END IF;
              IF TG_OP = 'INSERT' OR NOT ({invariant}) THEN
                RAISE EXCEPTION 'a row of app.% cannot be % like this: %', TG_TABLE_NAME, NEW.status, {rule}
                  USING ERRCODE = 'check_violation';
              END IF;
              RETURN NEW;
            END"""
        ).format(
            legal=legal,
            illegal=sql.Literal(ILLEGAL_TRANSITION),
            invariant=sql.SQL(self.invariant),
            rule=sql.Literal(self._known().as_string().replace("NEW.", "")),
        )

    def _known(self) -> sql.Composed:
        statuses = sql.SQL(", ").join(sql.Literal(str(status)) for status in self.transitions)
        return sql.SQL("NEW.status IN ({}) AND {}").format(statuses, sql.SQL(self.invariant))


GUARDS = (
    Guard("jobs", JOB_TRANSITIONS, "true", "status"),
    Guard(
        "tasks",
        TASK_TRANSITIONS,
        "(NEW.status = 'processing') = (NEW.lease_expires_at IS NOT NULL)",
        "status, lease_expires_at",
    ),
)
