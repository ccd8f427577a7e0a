"""Parameters and floating-point operations of the temporal autoencoder in closed form, layer by layer as in the picture."""

from collections.abc import Iterable, Iterator
from math import ceil
from typing import NamedTuple

from models.autoencoders.tae import COMPRESSION, TIME_STEPS, ImageVAEConfig, TAEConfig

# Shapes: F frames and A places (rows times columns) at a level, C channels. A multiply-add is two operations; biases,
# norms and softmax are left out of the operations and counted in the parameters.


class Cost(NamedTuple):
    """What one layer, or a whole network, holds and does."""

    parameters: int
    multiply_adds: int


def tae_parameters(config: TAEConfig) -> int:
    """Exactly the number of parameters the TAE has: 114.06 M at the paper-size `SIZES["moviegen"]`, 30.24 M temporal."""
    return _total([*_encoder(config, 1, 1, 1), *_decoder(config, 1, 1, 1)]).parameters


def encode_flops(config: TAEConfig, frames: int, height: int, width: int) -> int:
    """Operations of encoding one video of so many frames and pixels."""
    return 2 * _total(_encoder(config, frames, height, width)).multiply_adds


def decode_flops(config: TAEConfig, frames: int, height: int, width: int) -> int:
    """Operations of decoding one video of so many pixels; all 8 ceil(frames / 8) frames are computed."""
    return 2 * _total(_decoder(config, frames, height, width)).multiply_adds


def _encoder(config: ImageVAEConfig, frames: int, height: int, width: int) -> Iterator[Cost]:
    widths = [config.channels * multiplier for multiplier in config.multipliers]
    places = height * width // config.patch**2
    yield _conv(3 * config.patch**2, widths[0], frames, places)
    for level, channels in enumerate(widths):
        for number in range(config.blocks):
            yield from _resnet(widths[max(level - 1, 0)] if number == 0 else channels, channels, frames, places)
        if level < len(widths) - 1:
            space, time = level < config.space_steps, level < TIME_STEPS
            after, places = ceil(frames / 2) if time else frames, places // 4 if space else places
            yield from _step(channels, space, time, frames, after, places)
            frames = after
    yield from _middle(config, widths[-1], frames, places)
    yield _norm(widths[-1])
    yield _conv(widths[-1], 2 * config.latent_channels, frames, places)
    if config.quant_convs:
        yield _pointwise(2 * config.latent_channels, 2 * config.latent_channels, frames * places)


def _decoder(config: ImageVAEConfig, frames: int, height: int, width: int) -> Iterator[Cost]:
    widths = [config.channels * multiplier for multiplier in config.multipliers]
    frames, places = ceil(frames / COMPRESSION), height * width // COMPRESSION**2
    if config.quant_convs:
        yield _pointwise(config.latent_channels, config.latent_channels, frames * places)
    yield _conv(config.latent_channels, widths[-1], frames, places)
    yield from _middle(config, widths[-1], frames, places)
    for level, channels in reversed(list(enumerate(widths))):
        for number in range(config.blocks + 1):
            inputs = widths[min(level + 1, len(widths) - 1)] if number == 0 else channels
            yield from _resnet(inputs, channels, frames, places)
        if level > 0:
            space, time = level - 1 < config.space_steps, level - 1 < TIME_STEPS
            after, places = 2 * frames if time else frames, 4 * places if space else places
            yield from _step(channels, space, time, frames, after, places)
            frames = after
    yield _norm(widths[0])
    yield _conv(widths[0], 3 * config.patch**2, frames, places)


def _resnet(inputs: int, outputs: int, frames: int, places: int) -> Iterator[Cost]:
    yield from (_norm(inputs), _conv(inputs, outputs, frames, places))
    yield from (_norm(outputs), _conv(outputs, outputs, frames, places))
    if inputs != outputs:
        yield _pointwise(inputs, outputs, frames * places)


def _middle(config: ImageVAEConfig, channels: int, frames: int, places: int) -> Iterator[Cost]:
    yield from _resnet(channels, channels, frames, places)
    if config.attention:
        for sequences, length in ((frames, places), (places, frames)):  # over space, over time
            yield _norm(channels)
            yield _pointwise(channels, 4 * channels, frames * places)  # q, k, v and out
            yield Cost(0, 2 * sequences * length**2 * channels)  # q k^T and weights v
    yield from _resnet(channels, channels, frames, places)


def _step(channels: int, space: bool, time: bool, before: int, after: int, places: int) -> Iterator[Cost]:
    """Between two levels: a spatial convolution at the new size on the frames there were, a temporal one on the new."""
    if space:
        yield Cost(9 * channels**2 + channels, 9 * channels**2 * before * places)
    if time:
        yield _temporal(channels, after * places)


def _conv(inputs: int, outputs: int, frames: int, places: int) -> Cost:
    """The 2.5D pair: 3x3 over space, 3 over time."""
    spatial = Cost(9 * inputs * outputs + outputs, 9 * inputs * outputs * frames * places)
    return _total([spatial, _temporal(outputs, frames * places)])


def _temporal(channels: int, positions: int) -> Cost:
    return Cost(3 * channels**2 + channels, 3 * channels**2 * positions)


def _pointwise(inputs: int, outputs: int, positions: int) -> Cost:
    return Cost(inputs * outputs + outputs, inputs * outputs * positions)


def _norm(channels: int) -> Cost:
    return Cost(2 * channels, 0)


def _total(costs: Iterable[Cost]) -> Cost:
    return Cost(*(sum(column) for column in zip(*costs, strict=True)))
