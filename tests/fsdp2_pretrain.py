"""`hyenadna pretrain` with its model sharded by FSDP2, which Trainer itself does on no CPU; run by
`torchrun`.

The model says of itself that it is sharded, as one that `from_pretrained(distributed_config=...)`
shards: Trainer then leaves it as it is, and does everything else.
"""

import sys

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers.distributed.configuration_utils import DistributedConfig

from hyenadna.training import pretrain
from hyenadna.training.cli import leave_together

make_model = pretrain.make_model


def local(model):
    return [parameter.to_local() for parameter in model.parameters()]


def make_sharded(cls, args):
    model, checkpoint_config = make_model(cls, args)
    mesh = init_device_mesh("cpu", (args.world_size,))
    for block in model.hyena.backbone.layers:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
    own, all_of_it = (sum(p.numel() for p in ps) for ps in (local(model), model.parameters()))
    print(f"rank {args.process_index} holds {own} of {all_of_it} weights", flush=True)
    model._is_distributed_loading_by_transformers = model._is_fsdp_managed_module = True
    model.config.distributed_config = DistributedConfig(fsdp_size=args.world_size)
    return model, checkpoint_config


if __name__ == "__main__":
    torch.set_num_threads(1)
    pretrain.make_model = make_sharded
    pretrain.main(sys.argv[1:])
    leave_together()
