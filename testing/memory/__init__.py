"""The state store in memory, statement for statement what the PostgreSQL adapter does."""
