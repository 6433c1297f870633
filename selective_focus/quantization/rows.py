"""All calibration images of one activation, in memory or in a temporary file that is mapped into memory."""

from __future__ import annotations

import mmap
import tempfile
from typing import IO

import torch
from torch import Tensor


class MappedRows:
    """Tensors [n, ...] written one after the other and read by row, as if they had been concatenated.

    What is read is a copy with the values and the memory layout that it would have from memory. Pages are
    given back to the system after every read, so the rows take memory only while they are being read. The
    file has no name on systems that allow it and vanishes with this object, even when the process is killed.
    TMPDIR decides where it lies; a folder in memory (tmpfs) would defeat its purpose.
    """

    def __init__(self) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile(prefix="selective-focus-")  # noqa: SIM115 - lives as we do
        self._map: mmap.mmap | None = None
        self._count = 0

    def append(self, part: Tensor) -> None:
        """Write the next rows; all parts have equal shapes but for their first dimension.

        Raises:
            OSError: the temporary folder is full.
        """
        if self._count == 0:
            self._shape, self._dtype, self._channels_last = part.shape[1:], part.dtype, is_channels_last(part)
            self._device = part.device
        stored = part.movedim(1, -1) if self._channels_last else part
        self._file.write(stored.contiguous().reshape(-1).view(torch.uint8).cpu().numpy().data)
        self._count += len(part)

    def finish(self) -> MappedRows:
        """Everything is written: read from now on."""
        self._file.flush()
        # a private mapping: torch wants memory that may be written, and nothing ever is
        self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_COPY)
        return self

    def __getitem__(self, index: Tensor) -> Tensor:
        """The rows ``index`` [k] -> [k, ...], on the device that they came from."""
        if self._map is None:
            raise RuntimeError("rows of a file are read before finish() was called")
        index = index.cpu()
        flat = torch.frombuffer(self._map, dtype=self._dtype)
        if self._channels_last:
            c, h, w = self._shape
            found = flat.view(self._count, h, w, c).permute(0, 3, 1, 2)[index]
        else:
            found = flat.view(self._count, *self._shape)[index]
        del flat
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)
        return found.to(self._device)

    def close(self) -> None:
        """Give the file back now."""
        if self._map is not None:
            self._map.close()
        self._file.close()


class MemoryRows:
    """The same in memory: ``finish`` gives one tensor [images, ...], as ``torch.cat`` would."""

    def __init__(self, images: int) -> None:
        self._images = images
        self._count = 0

    def append(self, part: Tensor) -> None:
        """Copy the next rows."""
        if self._count == 0:
            layout = torch.channels_last if is_channels_last(part) else torch.contiguous_format
            shape = (self._images, *part.shape[1:])
            self._rows = torch.empty(shape, dtype=part.dtype, device=part.device, memory_format=layout)
        self._rows[self._count : self._count + len(part)] = part
        self._count += len(part)

    def finish(self) -> Tensor:
        """Everything is written."""
        return self._rows


def is_channels_last(part: Tensor) -> bool:
    """Whether ``torch.cat`` would keep these [N, C, H, W] with channels innermost."""
    plain = part.ndim != 4 or part.is_contiguous()
    return not plain and part.is_contiguous(memory_format=torch.channels_last)
