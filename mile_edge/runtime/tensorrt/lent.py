"""Device arrays that callers keep: lent by a lane, taken back when they are dropped, and lent again.

Reserving device memory takes long; giving it back waits for the whole device and is forbidden on a thread that captures
a graph. Callers drop arrays anywhere, and the garbage collector comes within a capture too, so no device is asked then.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from mile_edge.runtime.tensorrt.device import DeviceArray


class LendingPool:
    """Device arrays of one shape, as many as were ever kept at the same time.

    What is copied into an array on the pool's one stream is ordered behind what was copied into it before. Callers see
    to their own reads: an array is dropped once what reads it is through, as ``__cuda_array_interface__`` asks of them.

    Args:
        shape: of each array.
        dtype: NumPy type of their numbers.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype | type) -> None:
        self._shape, self._dtype = shape, np.dtype(dtype)
        # A deque: one end is put to by any thread, even in the middle of the other's taking.
        self._free: deque[DeviceArray] = deque()
        self._closed = False

    def take(self) -> LentArray:
        """An array that nobody holds; what is in it is old.

        Raises:
            BackendError: none is free, and the device has no memory left for another.
        """
        try:
            return LentArray(self, self._free.pop())
        except IndexError:
            return LentArray(self, DeviceArray(self._shape, self._dtype))

    def put_back(self, array: DeviceArray) -> None:
        """Take an array back; one that outlived the pool gives its memory back in its own time."""
        if not self._closed:
            self._free.append(array)

    def close(self) -> None:
        """Give back what nobody holds; what is still held stays whole until it is dropped. Twice is harmless."""
        self._closed = True
        while self._free:
            self._free.pop().close()


class LentArray:
    """A device array on loan: shape, type and address as of a :class:`DeviceArray`, until it is closed or dropped."""

    def __init__(self, pool: LendingPool, array: DeviceArray) -> None:
        self._pool = pool
        self._array: DeviceArray | None = array
        self.shape, self.dtype, self.bytes, self.address = array.shape, array.dtype, array.bytes, array.address

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """So that PyCUDA, CuPy and torch read it where it is; keep this object for as long as they do."""
        if self._array is None:
            raise AttributeError("the array was closed")
        return self._array.__cuda_array_interface__

    def close(self) -> None:
        """Let the memory be lent again; twice is harmless."""
        array, self._array, self.address = self._array, None, 0
        if array is not None:
            self._pool.put_back(array)

    def __del__(self) -> None:
        self.close()
