"""Memory that ends, or begins, at a page that must not be touched: an access past it ends the process."""

from __future__ import annotations

import ctypes
import mmap

import torch
from torch import Tensor

PAGE = mmap.PAGESIZE
_libc = ctypes.CDLL(None, use_errno=True)


def like(storage: torch.UntypedStorage, at_end: bool) -> torch.UntypedStorage:
    """The same bytes in pages of their own. at_end: the last byte lies before a guarded page, else the first one behind one."""
    size = storage.nbytes()
    pages = max(1, -(-size // PAGE))
    area = mmap.mmap(-1, (pages + 2) * PAGE)
    bytes_ = torch.frombuffer(area, dtype=torch.uint8)
    first = (pages + 1) * PAGE - size if at_end else PAGE
    kept = bytes_[first : first + size]
    kept.copy_(torch.empty(0, dtype=torch.uint8).set_(storage))
    for page in (0, pages + 1):
        _guard(bytes_.data_ptr() + page * PAGE)
    # the mapping lives as long as this storage: its owner holds `area`
    address = kept.data_ptr()
    guarded = torch.frombuffer((ctypes.c_char * max(1, size)).from_buffer(area, first), dtype=torch.uint8)
    assert guarded.data_ptr() == address
    return guarded.untyped_storage()


def _guard(address: int) -> None:
    if _libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(PAGE), 0):  # PROT_NONE
        raise OSError(ctypes.get_errno(), "mprotect")


def placed(tensor: Tensor, at_end: bool) -> Tensor:
    """A tensor of the same numbers and strides in guarded memory."""
    storage = like(tensor.untyped_storage(), at_end)
    return torch.empty(0, dtype=tensor.dtype).set_(storage, tensor.storage_offset(), tensor.size(), tensor.stride())
