"""A commit carries the name of its job, so that no number has to be remembered from before."""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.drop_column("jobs", "first_snapshot")
