"""Runs handlers in warm child processes: a hang, a GIL hog, a segfault or the OOM killer ends that child alone.

The processes of one child::

    worker ── guardian ── runner ── whatever the handler starts

The *guardian* (``guardian.py``) is a few lines of plain Python that never run foreign code. It forks the *runner*
(``runner.py``), adopts what the runner's descendants orphan, and ends all of them when the runner dies, when the
worker asks, or when the worker is gone. The worker (``executor.py``, ``child.py``) talks to the runner in framed JSON
and never unpickles anything.

This module stays empty of imports: the guardian loads it, and must stay small.
"""
