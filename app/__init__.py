"""Composition and entry points: the one place that knows every part, reads the environment and picks the mode."""
