"""Reads how much of a GPU's memory is in use, from the driver's library, cheaply enough to ask a hundred times a second.

The driver's list of processes is empty or has foreign numbers inside many containers, so what counts is the memory in use
above what was in use before: the GPU must be idle otherwise. It is the same for every program measured.
"""
import ctypes


class Memory(ctypes.Structure):
    _fields_ = [(name, ctypes.c_ulonglong) for name in ("total", "free", "used")]


class DeviceMemory:
    """The memory of the GPU with this UUID; `peak_mb` is None where the driver does not tell."""

    def __init__(self, uuid):
        self.handle, self.driver = None, None
        self.idle = self.peak = None
        if uuid is None:
            return
        try:
            self.library = ctypes.CDLL("libnvidia-ml.so.1")
        except OSError:
            return
        handle = ctypes.c_void_p()
        if self.library.nvmlInit_v2() or self.library.nvmlDeviceGetHandleByUUID(uuid.encode(), ctypes.byref(handle)):
            return
        self.handle = handle
        version = ctypes.create_string_buffer(96)
        if not self.library.nvmlSystemGetDriverVersion(version, len(version)):
            self.driver = version.value.decode()

    def used(self):
        """Bytes in use, None where unknown."""
        memory = Memory()
        if self.handle is None or self.library.nvmlDeviceGetMemoryInfo(self.handle, ctypes.byref(memory)):
            return None
        return memory.used

    def start(self):
        self.idle = self.peak = self.used()

    def sample(self):
        now = self.used() if self.peak is not None else None
        if now is not None:
            self.peak = max(self.peak, now)

    @property
    def peak_mb(self):
        return None if self.peak is None else (self.peak - self.idle) / 1e6
