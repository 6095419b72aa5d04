"""The machine: jobs, stages, tasks and their life. Imports no I/O library; ``core.ports`` is what it asks of others."""
