"""The machine: jobs, stages, tasks and their life. Imports no I/O library; see ``core.ports`` for what it asks of others."""
