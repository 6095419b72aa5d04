"""Adapters to the world: PostgreSQL, processes, HTTP callbacks, storage, credentials and telemetry."""
