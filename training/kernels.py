"""Which attention kernels a run's forward passes take, told once for each shape."""

from dataclasses import dataclass, field

from torch import Tensor, nn

from models.attention import record_kernels
from training.data.groups import Group
from training.loop import Objective
from training.metrics import MetricsLog


@dataclass
class KernelsTold:
    """An objective, unchanged, that logs a `kernels` line the first time it sees a shape.

    Calls by kernel, of one forward pass on the first worker. Calls inside a compiled graph are not seen.
    """

    objective: Objective
    log: MetricsLog | None  # None on other workers: nothing is counted
    seen: set[str] = field(default_factory=set)

    def __call__(self, model: nn.Module, group: Group) -> tuple[Tensor, dict[str, Tensor]]:
        bucket = group.samples[0].bucket.name
        if self.log is None or bucket in self.seen:
            return self.objective(model, group)
        with record_kernels() as ran:
            result = self.objective(model, group)
        self.seen.add(bucket)
        self.log.write("kernels", at_step=group.samples[0].step + 1, bucket=bucket, calls=dict(ran))
        return result
