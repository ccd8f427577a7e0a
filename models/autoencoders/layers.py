"""The parts of both autoencoders: image layers, and the temporal layers that inflate them to 2.5D.

Pictures travel as frames, [B*T, C, H, W], with B passed beside them: spatial layers and group norm then see single
frames without knowing of time (so every norm is per frame), and temporal layers recover T as len(x) / B. Convolutions
run channels-last, where the temporal ones are plain views of the same memory.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from models.attention import attend

Time = Literal["same", "halve", "double"]  # what a temporal convolution does to the number of frames


class TemporalConv(nn.Module):
    """1D convolution over time, kernel 3, symmetric replicate padding: non-causal, and no frame is darker than others.

    "halve" has stride 2, so n frames become ceil(n / 2) and output k is centred on input 2k; "double" repeats every
    frame before convolving. Starts as the identity (centre tap 1, bias 0): then a "same" layer changes nothing,
    "halve" picks the even frames, and "double" shows each frame twice.
    """

    def __init__(self, channels: int, time: Time = "same"):
        super().__init__()
        self.time = time
        self.weight = nn.Parameter(torch.zeros(channels, channels, 3))  # [C out, C in, taps]
        self.bias = nn.Parameter(torch.zeros(channels))
        with torch.no_grad():
            self.weight[:, :, 1] = torch.eye(channels)

    def forward(self, x: Tensor, batch: int) -> Tensor:
        _, c, h, w = x.shape
        x = x.permute(0, 2, 3, 1).reshape(batch, -1, h * w, c)  # [B, T, H*W, C]
        if self.time == "double":
            x = x.repeat_interleave(2, dim=1)
        x = torch.cat([x[:, :1], x, x[:, -1:]], dim=1)
        stride = (2, 1) if self.time == "halve" else (1, 1)
        x = F.conv2d(x.permute(0, 3, 1, 2), self.weight[..., None], self.bias, stride)  # [B, C, T', H*W]
        return x.permute(0, 2, 3, 1).reshape(-1, h, w, c).permute(0, 3, 1, 2)  # [B*T', C, H, W]


class Conv(nn.Conv2d):
    """3x3 spatial convolution; with `time`, a temporal convolution follows it (the 2.5D pair)."""

    def __init__(self, inputs: int, outputs: int, time: Time | None = None, stride: int = 1):
        super().__init__(inputs, outputs, 3, stride=stride, padding=1 if stride == 1 else 0)
        self.temporal = TemporalConv(outputs, time) if time else None

    def forward(self, x: Tensor, batch: int) -> Tensor:  # type: ignore[override]
        if self.stride[0] == 2:
            x = F.pad(x, (0, 1, 0, 1))  # the image autoencoder's own asymmetric padding
        x = super().forward(x)
        return x if self.temporal is None else self.temporal(x, batch)


class ResnetBlock(nn.Module):
    """norm, silu, conv, norm, silu, conv, plus the input (through a 1x1 convolution where the width changes).

    The second convolution starts at zero, so an untrained block passes its input on: trained from nothing, the demo's
    autoencoder gains about 0.3 dB by it. Imported weights replace the zeros.
    """

    def __init__(self, inputs: int, outputs: int, groups: int, time: Time | None):
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, inputs, eps=1e-6)
        self.conv1 = Conv(inputs, outputs, time)
        self.norm2 = nn.GroupNorm(groups, outputs, eps=1e-6)
        self.conv2 = Conv(outputs, outputs, time)
        self.conv_shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor, batch: int) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x)), batch)
        y = self.conv2(F.silu(self.norm2(y)), batch)
        return y + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class Attention(nn.Module):
    """One head over the places of a frame, or with `over="time"` over the frames at each place; added to the input.

    The temporal one starts with a zero output projection, so that it changes nothing at first.
    """

    def __init__(self, channels: int, groups: int, over: Literal["space", "time"] = "space"):
        super().__init__()
        self.over = over
        self.group_norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])
        if over == "time":
            for parameter in self.to_out.parameters():
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor, batch: int) -> Tensor:
        axes = {
            "space": ("(b t) c h w -> (b t) 1 (h w) c", "(b t) 1 (h w) c -> (b t) c h w"),
            "time": ("(b t) c h w -> (b h w) 1 t c", "(b h w) 1 t c -> (b t) c h w"),
        }
        to_sequence, to_frames = axes[self.over]
        sizes = {"b": batch, "h": x.shape[2], "w": x.shape[3]}
        y = rearrange(self.group_norm(x), to_sequence, **sizes)
        y = self.to_out[0](attend(self.to_q(y), self.to_k(y), self.to_v(y)))
        return x + rearrange(y, to_frames, **sizes)


class MidBlock(nn.Module):
    """Block, spatial attention, temporal attention, block: the only attention in the autoencoder."""

    def __init__(self, channels: int, groups: int, attention: bool, time: Time | None):
        super().__init__()
        self.resnets = nn.ModuleList([ResnetBlock(channels, channels, groups, time) for _ in range(2)])
        self.attentions = nn.ModuleList([Attention(channels, groups)] if attention else [])
        self.temporal_attentions = nn.ModuleList([Attention(channels, groups, "time")] if attention and time else [])

    def forward(self, x: Tensor, batch: int) -> Tensor:
        x = self.resnets[0](x, batch)
        for attention in (*self.attentions, *self.temporal_attentions):
            x = attention(x, batch)
        return self.resnets[1](x, batch)


class Downsample(nn.Module):
    """Half the rows and columns, half the frames, or both: strided convolutions."""

    def __init__(self, channels: int, space: bool, time: bool):
        super().__init__()
        self.conv = Conv(channels, channels, "halve" if time else None, stride=2) if space else None
        self.temporal = TemporalConv(channels, "halve") if time and not space else None

    def forward(self, x: Tensor, batch: int) -> Tensor:
        if self.conv is not None:
            return self.conv(x, batch)
        return x if self.temporal is None else self.temporal(x, batch)


class Upsample(nn.Module):
    """Twice the rows and columns, twice the frames, or both: nearest neighbour, then a convolution."""

    def __init__(self, channels: int, space: bool, time: bool):
        super().__init__()
        self.conv = Conv(channels, channels, "double" if time else None) if space else None
        self.temporal = TemporalConv(channels, "double") if time and not space else None

    def forward(self, x: Tensor, batch: int) -> Tensor:
        if self.conv is not None:
            return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"), batch)
        return x if self.temporal is None else self.temporal(x, batch)
