"""What a GPU can do, and who says so: the ceilings that the planner divides by. None of them was measured by this project."""

from dataclasses import dataclass, replace

GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Accelerator:
    """One GPU and its share of the machine around it. Rates are FLOP/s or bytes/s."""

    name: str
    memory: int  # bytes that a process sees
    peak: float  # dense bfloat16, the data sheet's: what MFU is a share of
    linear: float  # large bfloat16 matrix products
    attention_forward: float  # cuDNN's kernel in bfloat16, heads of 128, 16k tokens
    attention_backward: float  # at 2.5 times the forward's operations
    float32: float  # large float32 matrix products, TF32 off
    bandwidth: float  # of the GPU's memory, read and written together
    node_link: float  # to the other GPUs of a node, each direction
    network: float  # to other nodes, each direction
    per_node: int = 8


LINK_EFFICIENCY = 0.8  # share of a link's rate that a collective reaches: our assumption
USABLE_MEMORY = 0.92  # the rest is CUDA, NCCL and the allocator's gaps: our assumption
PRICE = 2.0  # US dollars per GPU-hour: 107.5 thousand for 2,240 H200-days in Open-Sora 2.0's report

_H200 = Accelerator(
    name="h200",
    memory=139 * GIB,
    peak=989e12,
    linear=740e12,
    attention_forward=595e12,
    attention_backward=516e12,
    float32=50e12,
    bandwidth=4.3e12,
    node_link=450e9,
    network=50e9,
)
ACCELERATORS = {
    "h200": _H200,
    "h100": replace(_H200, name="h100", memory=79 * GIB, bandwidth=3.0e12),  # the same cores and links
}
SOURCES = {  # ceiling -> where it is from
    "memory": "H200 141 GB and H100 80 GB parts as the driver shows them",
    "peak": "NVIDIA's data sheets, 989 TFLOP/s dense bfloat16 (SXM)",
    "linear": "94 % of the about 790 TFLOP/s published for large products of random numbers on H200; H100 has the same cores",
    "attention": "FlashAttention-3's figures for cuDNN on H100: 595 forward, 516 backward TFLOP/s",
    "float32": "75 % of the data sheet's 67 TFLOP/s: an assumption",
    "bandwidth": "4.3 TB/s published for copies on H200; 90 % of the data sheet's 3.35 TB/s on H100",
    "links": f"NVLink 450 GB/s and 400 Gbit/s a GPU each direction (Movie Gen's cluster), {LINK_EFFICIENCY:.0%} of it reached: an assumption",
    "price": f"{PRICE:g} dollars per GPU-hour, Open-Sora 2.0's on H200; --price sets another",
}
