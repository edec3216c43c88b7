"""``trainer=fsdp``: a backbone larger than one device, cut among the processes; the prompt is whole on each of them."""

from typing import Any

from lightning.pytorch.strategies import DDPStrategy
from torch import distributed
from torch.distributed.device_mesh import DeviceMesh
from torch.nn.parallel import DistributedDataParallel

FSDP = "fsdp"
"""The value of ``trainer.strategy``; Lightning's strategy of that name would cut what is trained as well."""


class ShardedStrategy(DDPStrategy):
    """Lightning's DDP for what is trained, over a backbone of which each process holds a part of every layer.

    Nothing within the backbone is trained, so no gradient is scattered, and DDP sums those of the prompt as ever.
    """

    def model_to_device(self) -> None:
        """Cut the layers, one after another on their way to the device; the rest goes there whole."""
        backbone: Any = self.lightning_module.backbone  # type: ignore[union-attr]  # that of an MPTModule
        if not backbone.is_sharded:
            backbone.shard(DeviceMesh(self.root_device.type, list(range(distributed.get_world_size()))))
        super().model_to_device()

    def configure_ddp(self) -> None:
        """Keep what is frozen from DDP, which would copy the first process's numbers to all."""
        assert self.model is not None
        every = (*self.model.named_parameters(), *self.model.named_buffers())
        frozen = [name for name, _ in every if name.startswith("backbone.")]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self.model, frozen)  # type: ignore[no-untyped-call]
        super().configure_ddp()
