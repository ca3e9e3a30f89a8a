"""How jobs and their values cross the pipes between a process and the workers that it started itself.

In memory, packed as `multiprocessing` packs all that it sends, but here rather than by the pipe: what cannot be packed
or unpacked ends its own job, not the worker, and a message is whole before its first byte is sent. Nothing of it is
written to a file, and nothing is read that another program made: this is no way in for data. `data/unpickle.py` is for
foreign files, and runs nothing.
"""

from __future__ import annotations

import copyreg
import io
from multiprocessing.reduction import ForkingPickler
from typing import Any


def pack(value: Any) -> bytes:
    """A value as bytes; raises whatever its class raises where it cannot be sent."""
    buffer = io.BytesIO()
    packer = ForkingPickler(buffer)
    # Without what torch registers with multiprocessing: tensors cross as copies, not as memory that both sides write.
    packer.dispatch_table = copyreg.dispatch_table
    packer.dump(value)
    return buffer.getvalue()


def unpack(data: bytes) -> Any:
    """What `pack` packed in another process of this engine."""
    return ForkingPickler.loads(data)
