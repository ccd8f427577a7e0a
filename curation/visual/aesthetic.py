"""How much people like the picture in the middle of a clip."""

from functools import cache
from pathlib import Path
from typing import Any, final

from curation.clips.errors import WrongCall
from curation.clips.frames import decode_look
from curation.contracts import ClipView, Filter, Models, Score, Signal


@cache
def _model(clip: str, head: str) -> Any:
    import torch

    from models.content.aesthetic import AestheticModel

    torch.set_num_threads(1)  # one worker, one core
    return AestheticModel(clip, head)


@final
class Aesthetic(Filter):
    """LAION's aesthetic score of the middle frame, at least 4.0 in the paper (appendix J.1). Its weights ship in no package.

    People scored web pictures, paintings among them, from 1 to 10. It sees one picture of the clip, its middle square, and
    nothing of motion; without weights it is unmeasured, which fails no rule.
    """

    stage = "visual"
    signals = (
        Signal(
            name="aesthetic",
            unit="1..10",
            meaning="LAION's aesthetic predictor on CLIP ViT-L/14, of the picture nearest the middle of the clip",
        ),
    )
    rung = "models"
    cost = 250.0  # with weights: 2 s a clip of 8 s

    def score(self, clip: ClipView) -> dict[str, Score]:
        weights = clip.models.aesthetic_clip, clip.models.aesthetic_head
        if weights[0] is None or weights[1] is None:
            return self.unmeasured("the recipe names no weights: models.aesthetic_clip and models.aesthetic_head")
        if not clip.looks:
            return self.unmeasured("no picture was taken of it")
        middle = clip.strip.clock.duration_seconds / 2
        _, look = min(clip.looks, key=lambda each: abs(each[0] - middle))
        return {"aesthetic": _model(*weights)(decode_look(look))}

    def measured_with(self, models: Models) -> str:
        if models.aesthetic_clip is None or models.aesthetic_head is None:
            return ""
        from models.content.aesthetic import weights_name

        return weights_name(models.aesthetic_clip, models.aesthetic_head)

    def require(self, models: Models) -> None:
        named = {"aesthetic_clip": models.aesthetic_clip, "aesthetic_head": models.aesthetic_head}
        given = {name: path for name, path in named.items() if path is not None}
        if not given:
            return
        for name in named:
            if name not in given:
                raise WrongCall(f"models.{name} is missing; the aesthetic score needs {' and '.join(named)}")
            if not Path(given[name]).is_file():
                raise WrongCall(
                    f"models.{name}: there is no file {given[name]}; no package ships it, see models/content/aesthetic.py"
                )
        try:
            _model(
                given["aesthetic_clip"], given["aesthetic_head"]
            )  # six seconds, once, before footage is decoded for nothing
        except ValueError as error:
            raise WrongCall(f"models.aesthetic_clip, models.aesthetic_head: {error}") from error
