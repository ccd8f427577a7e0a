"""Personal access tokens and the audit log."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    known = sa.inspect(op.get_bind()).get_table_names()  # a service of before migrations knew them may have made them
    if "tokens" not in known:
        op.create_table(
            "tokens",
            sa.Column("id", sa.String, primary_key=True),
            sa.Column("name", sa.String, nullable=False),
            sa.Column("prefix", sa.String, nullable=False),
            sa.Column("sha256", sa.String, nullable=False, unique=True),
            sa.Column("scopes", sa.String, nullable=False),
            sa.Column("created_at", sa.Float, nullable=False),
            sa.Column("expires_at", sa.Float, nullable=False),
            sa.Column("revoked_at", sa.Float),
        )
    if "audit" not in known:
        op.create_table(
            "audit",
            sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
            sa.Column("time", sa.Float, nullable=False),
            sa.Column("caller", sa.String, nullable=False),
            sa.Column("caller_name", sa.String, nullable=False),
            sa.Column("address", sa.String, nullable=False),
            sa.Column("method", sa.String, nullable=False),
            sa.Column("path", sa.String, nullable=False),
            sa.Column("status", sa.Integer, nullable=False),
            sa.Column("trace_id", sa.String, nullable=False),
            sqlite_autoincrement=True,
        )
