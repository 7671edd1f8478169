"""How large the tensors are that an operation makes on its way."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class LargestOutput(TorchDispatchMode):
    """Records the largest storage that any operation returns, and what the
    operations were."""

    def __init__(self):
        super().__init__()
        self.numel = 0
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.names.add(func.overloadpacket.__name__)
        outputs = out if isinstance(out, (tuple, list)) else [out]
        for x in outputs:
            if isinstance(x, torch.Tensor):
                self.numel = max(
                    self.numel,
                    x.untyped_storage().nbytes() // x.element_size(),
                )
        return out
