"""Jobs and what happened to them, as the first services made them without migrations."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("request", sa.String, nullable=False),
        sa.Column("idempotency_key", sa.String, unique=True),
        sa.Column("state", sa.String, nullable=False, index=True),
        sa.Column("cancel_requested", sa.Float),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("started_at", sa.Float),
        sa.Column("finished_at", sa.Float),
        sa.Column("executor", sa.String),
        sa.Column("handle", sa.String),
        sa.Column("pid", sa.Integer),
        sa.Column("progress", sa.String, nullable=False),
        sa.Column("error", sa.String),
        sa.Column("snapshot", sa.Integer),
        sa.Column("first_snapshot", sa.Integer),
    )
    op.create_table(
        "job_events",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("job_id", sa.String, sa.ForeignKey("jobs.id"), nullable=False),
        sa.Column("time", sa.Float, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("data", sa.String, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("job_events_by_job", "job_events", ["job_id", "id"])
