"""Safetensors files that are the same bytes from run to run (the package writes `__metadata__` in hash order)."""
import json
from pathlib import Path


def save(tensors, path, metadata=None):
    """Writes torch tensors or numpy arrays, with the metadata keys sorted."""
    if all(hasattr(t, "numpy") for t in tensors.values()):
        from safetensors.torch import save as serialise
    else:
        from safetensors.numpy import save as serialise
    data = serialise(tensors, metadata=metadata)
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8:8 + size])
    if metadata:
        header = {"__metadata__": dict(sorted(header.pop("__metadata__").items())), **header}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the format wants the data 8-byte aligned
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size:])
