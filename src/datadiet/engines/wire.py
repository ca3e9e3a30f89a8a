"""How jobs and their values cross the pipes between a process and the workers that it started itself.

As pickles, in memory, which is how `multiprocessing` sends everything; packed here rather than by the pipe, so that
what cannot be packed or unpacked ends its own job and not the worker. None is written to a file, and none is read that
another program made: this is no way in for data. `data/unpickle.py` is for foreign files, and runs nothing.
"""

from __future__ import annotations

import pickle
from typing import Any


def pack(value: Any) -> bytes:
    """A value as bytes; raises whatever its class raises where it cannot be sent."""
    return pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)


def unpack(data: bytes) -> Any:
    """What `pack` packed in another process of this engine."""
    return pickle.loads(data)
