"""Leases, owners, priorities, attempts again after a while, counters and results."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def new_columns() -> list[sa.Column]:
    return [
        sa.Column("owner", sa.String, nullable=False, server_default="local"),
        sa.Column("priority", sa.Integer, nullable=False, server_default="0"),
        sa.Column("writes", sa.String),
        sa.Column("not_before", sa.Float, nullable=False, server_default="0"),
        sa.Column("place", sa.String),
        sa.Column("lease_owner", sa.String),
        sa.Column("lease_until", sa.Float),
        sa.Column("heartbeat_at", sa.Float),
        sa.Column("progress_offset", sa.Integer, nullable=False, server_default="0"),
        sa.Column("counters", sa.String, nullable=False, server_default="{}"),
        sa.Column("error_class", sa.String),
        sa.Column("result", sa.String),
    ]


def upgrade() -> None:
    # SQLite cannot drop a constraint: batch mode copies the table, and the naming convention names what had no name
    naming = {"uq": "%(table_name)s_%(column_0_name)s_key"}
    with op.batch_alter_table("jobs", naming_convention=naming) as jobs:
        for column in new_columns():
            jobs.add_column(column)
        jobs.drop_constraint("jobs_idempotency_key_key", type_="unique")
        jobs.create_unique_constraint("jobs_by_key", ["owner", "idempotency_key"])
    op.create_index("jobs_in_line", "jobs", ["state", "priority", "created_at"])
    alive = sa.text("state IN ('running', 'committing')")
    op.create_index("jobs_one_writer", "jobs", ["writes"], unique=True, sqlite_where=alive, postgresql_where=alive)
