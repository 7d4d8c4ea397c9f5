"""What an ordinary user may do, also for root, who may read and write everything (Linux)."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Capabilities that pass over the permissions of files: CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH.
_PASSING_OVER = 1 << 1 | 1 << 2
_VERSION_3 = 0x20080522  # of the calls capget and capset, see capget(2)


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _Data(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable")]


@contextmanager
def ordinary_user() -> Iterator[None]:
    """Let permissions of files count in this thread, for root as well. Elsewhere they do anyway."""
    if not sys.platform.startswith("linux"):
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = _Header(_VERSION_3, 0)
    before = (_Data * 2)()
    libc.capget(ctypes.byref(header), before)
    lowered = (_Data * 2).from_buffer_copy(before)
    lowered[0].effective &= ~_PASSING_OVER
    libc.capset(ctypes.byref(header), lowered)
    try:
        yield
    finally:
        libc.capset(ctypes.byref(header), before)
