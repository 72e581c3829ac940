"""Judges by name, for the command line; or `module:name` of one's own."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from .base import Judge


def judge_named(name: str, *, allow_download: bool = False) -> Judge:
    """A judge.

    Args:
        name: One of `NAMES`, or `module:name` of a class or a function that returns a judge, such as
            `emoji_sd.recogniser:EmojiJudge`.
        allow_download: Whether its weights may be downloaded.

    Raises:
        ValueError: If there is no judge of this name.
        FileNotFoundError: If its weights are missing.
        ImportError: If its package is missing.
    """
    module, colon, attribute = name.partition(":")
    if not colon:
        if name not in _MADE:
            raise ValueError(f"There is no judge {name!r}; there are {', '.join(NAMES)}, and module:name of your own.")
        return _MADE[name](allow_download)
    make = getattr(import_module(module), attribute, None)
    judge = make() if callable(make) else make
    if not isinstance(judge, Judge):
        raise ValueError(f"{name} must be a Judge, or return one; got {judge!r}.")
    return judge


def _nudenet(allow_download: bool) -> Judge:
    from .nudenet import NudeNet

    return NudeNet()


def _open_nsfw(allow_download: bool) -> Judge:
    from .open_nsfw import OpenNSFW

    return OpenNSFW()


def _resnet50(allow_download: bool) -> Judge:
    from .imagenet import ResNet50

    return ResNet50(allow_download=allow_download)


def _efficientnet(allow_download: bool) -> Judge:
    from .imagenet import EfficientNetLite0

    return EfficientNetLite0()


def _clip_score(allow_download: bool) -> Judge:
    from .clip import CLIP, CLIPScore

    return CLIPScore(CLIP(allow_download=allow_download))


def _clip_similarity(allow_download: bool) -> Judge:
    from .clip import CLIP, CLIPSimilarity

    return CLIPSimilarity(CLIP(allow_download=allow_download))


def _care(allow_download: bool) -> Judge:
    from .care import PersonJudge
    from .clip import CLIP

    return PersonJudge(CLIP(allow_download=allow_download))


def _lpips(allow_download: bool) -> Judge:
    from .lpips import LPIPS

    return LPIPS(allow_download=allow_download)


def _st_lpips(allow_download: bool) -> Judge:
    from .st_lpips import STLPIPS

    return STLPIPS()


_MADE: dict[str, Callable[[bool], Judge]] = {
    "nudenet": _nudenet,
    "open-nsfw": _open_nsfw,
    "resnet50": _resnet50,
    "efficientnet-lite0": _efficientnet,
    "clip-score": _clip_score,
    "clip-similarity": _clip_similarity,
    "care": _care,
    "lpips": _lpips,
    "st-lpips": _st_lpips,
}
NAMES = tuple(_MADE)
"""Names of judges."""
