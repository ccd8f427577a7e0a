"""How alembic runs the steps: on the connection that `api.engine` hands over, in the transaction that is open there."""

from alembic import context

from api.schema import Base

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=Base.metadata,
    transactional_ddl=True,  # SQLite can, when somebody says BEGIN
    render_as_batch=connection.dialect.name == "sqlite",
)
context.run_migrations()
