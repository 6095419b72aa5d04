"""Handlers and job definitions: what the work is. No plumbing: see ``services.registry`` for all of them."""
