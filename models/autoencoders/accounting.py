"""Parameters, operations and activations of the temporal autoencoder in closed form, layer by layer as in the picture."""

from collections.abc import Iterable, Iterator
from math import ceil
from typing import NamedTuple

from models.autoencoders.tae import COMPRESSION, TIME_STEPS, ImageVAEConfig, TAEConfig

# Shapes: F frames and A places (rows times columns) at a level, C channels. A multiply-add is two operations; biases,
# norms and softmax are left out of the operations and counted in the parameters. Kept are the numbers autograd needs for
# the backward pass: what norms, activations, convolutions and attention read; temporal convolutions keep two frames more.


class Cost(NamedTuple):
    """What one layer, or a whole network, holds and does."""

    parameters: int
    multiply_adds: int
    kept: int  # values for the backward pass


def tae_parameters(config: TAEConfig) -> int:
    """Exactly the number of parameters the TAE has: 114.06 M at the paper-size `SIZES["moviegen"]`, 30.24 M temporal."""
    return _total([*_encoder(config, 1, 1, 1), *_decoder(config, 1, 1, 1)]).parameters


def encode_flops(config: TAEConfig, frames: int, height: int, width: int) -> int:
    """Operations of encoding one video of so many frames and pixels."""
    return 2 * _total(_encoder(config, frames, height, width)).multiply_adds


def decode_flops(config: TAEConfig, frames: int, height: int, width: int) -> int:
    """Operations of decoding one video of so many pixels; all 8 ceil(frames / 8) frames are computed."""
    return 2 * _total(_decoder(config, frames, height, width)).multiply_adds


def tae_activations(config: TAEConfig, frames: int, height: int, width: int) -> int:
    """Numbers (not bytes) that autograd keeps while one video is encoded and decoded for training, losses left out."""
    return _total([*_encoder(config, frames, height, width), *_decoder(config, frames, height, width)]).kept


def _encoder(config: ImageVAEConfig, frames: int, height: int, width: int) -> Iterator[Cost]:
    widths = [config.channels * multiplier for multiplier in config.multipliers]
    places = height * width // config.patch**2
    yield _conv(3 * config.patch**2, widths[0], frames, places)
    for level, channels in enumerate(widths):
        for number in range(config.blocks):
            yield from _resnet(widths[max(level - 1, 0)] if number == 0 else channels, channels, frames, places)
        if level < len(widths) - 1:
            space, time = level < config.space_steps, level < TIME_STEPS
            after, smaller = ceil(frames / 2) if time else frames, places // 4 if space else places
            yield from _step(channels, space, time, frames, after, places, smaller)
            frames, places = after, smaller
    yield from _middle(config, widths[-1], frames, places)
    yield _norm_silu(widths[-1], frames * places)
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
            after, larger = 2 * frames if time else frames, 4 * places if space else places
            yield from _step(channels, space, time, frames, after, places, larger)
            frames, places = after, larger
    yield _norm_silu(widths[0], frames * places)
    yield _conv(widths[0], 3 * config.patch**2, frames, places)


def _resnet(inputs: int, outputs: int, frames: int, places: int) -> Iterator[Cost]:
    yield from (_norm_silu(inputs, frames * places), _conv(inputs, outputs, frames, places))
    yield from (_norm_silu(outputs, frames * places), _conv(outputs, outputs, frames, places))
    if inputs != outputs:
        yield _pointwise(inputs, outputs, frames * places)


def _middle(config: ImageVAEConfig, channels: int, frames: int, places: int) -> Iterator[Cost]:
    yield from _resnet(channels, channels, frames, places)
    if config.attention:
        for sequences, length, copies in ((frames, places, 1), (places, frames, 3)):  # over space, over time
            values = channels * frames * places
            yield Cost(2 * channels, 0, (1 + copies) * values)  # norm; over time each projection copies its input
            yield _pointwise(channels, 4 * channels, frames * places)  # q, k, v and out
            yield Cost(
                0, 2 * sequences * length**2 * channels, 4 * values
            )  # q k^T and weights v; q, k, v and the result
    yield from _resnet(channels, channels, frames, places)


def _step(
    channels: int, space: bool, time: bool, before: int, after: int, places_before: int, places: int
) -> Iterator[Cost]:
    """Between two levels: a spatial convolution at the new size on the frames there were, a temporal one on the new."""
    if space:
        read = max(places_before, places)  # a step up reads what it has enlarged
        yield Cost(9 * channels**2 + channels, 9 * channels**2 * before * places, channels * before * read)
    if time:
        yield _temporal(channels, max(before, after), after, places)


def _conv(inputs: int, outputs: int, frames: int, places: int) -> Cost:
    """The 2.5D pair: 3x3 over space, 3 over time."""
    values = frames * places
    spatial = Cost(9 * inputs * outputs + outputs, 9 * inputs * outputs * values, inputs * values)
    return _total([spatial, _temporal(outputs, frames, frames, places)])


def _temporal(channels: int, before: int, after: int, places: int) -> Cost:
    """Reads so many frames (repeated ones too) and one more at either end."""
    return Cost(3 * channels**2 + channels, 3 * channels**2 * after * places, channels * (before + 2) * places)


def _pointwise(inputs: int, outputs: int, positions: int) -> Cost:
    return Cost(inputs * outputs + outputs, inputs * outputs * positions, 0)  # reads what a norm or attention keeps


def _norm_silu(channels: int, positions: int) -> Cost:
    return Cost(2 * channels, 0, 2 * channels * positions)


def _total(costs: Iterable[Cost]) -> Cost:
    return Cost(*(sum(column) for column in zip(*costs, strict=True)))
