"""The state store on PostgreSQL."""
