"""Worker processes that end when the process which started them is gone."""

from __future__ import annotations

import multiprocessing
import os
import threading

WRITING = threading.Lock()
"""Held while a file is written, so that no worker ends in the middle of one."""


def end_with_parent() -> None:
    """Initializer of a process pool: the worker ends by itself when its parent does, even by `kill -9`.

    Without it workers wait for tasks for ever. Does nothing in a process that `multiprocessing` did not start.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()  # on the parent's sentinel: no polling, on every system
        with WRITING:
            os._exit(1)  # the tasks' thread may be anywhere in the renderer, nobody waits for its result

    threading.Thread(target=watch, name="end with parent", daemon=True).start()
