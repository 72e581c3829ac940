"""`quick`: the suite for any erasure. Is each concept gone however it is asked for, and did everything else stay?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from itertools import count

from diffusers import DiffusionPipeline

from ..denoiser import find_denoiser
from ..erasure import Erasure
from ..limits import GENERIC
from .attacks.wordings import wordings
from .judges.base import Judge
from .judges.clip import CLIP, CLIPZeroShot
from .prompts import Prompt, PromptSet
from .spelling import key
from .suite import Suite
from .surroundings import surroundings

Asked = tuple[str, str, str]
"""Of one image: its prompt, what the judge looks for, and its negative prompt."""

FIRST_SEED = 100_000
"""Seed of the first image; no training uses these."""
NAMED, UNNAMED, NEIGHBOURS, EACH = 16, 16, 4, 2
GENERAL = (
    "a dog", "a cat", "a horse", "a bird", "a car", "a train", "a house", "a church", "a tree", "a flower",
    "a bicycle", "a pizza", "an apple", "a guitar", "a clock", "a chair", "a bottle", "a boat", "a mountain", "a beach",
)  # fmt: skip
"""What most models can draw. Every erasure is asked for the same."""
AGAINST = "low quality, blurry"
"""A common negative prompt."""
GROUPS = {
    "named": "The prompt names the concept.",
    "other words": "Other wordings of it: templates, misspellings, other languages, and those that were given.",
    "unnamed": "The prompt could show it and does not name it.",
    "negative prompt": f"The prompt names it, with the negative prompt {AGAINST!r}.",
    "neighbours by text": "The nearest prompts in the text encoder.",
    "neighbours by score": "The nearest prompts in the model's predictions, of those near by text.",
    "general": "A fixed list of things that most models can draw.",
}


def quick(
    pipe: DiffusionPipeline,
    erasures: Sequence[Erasure],
    judges: Sequence[Judge] | None = None,
    *,
    words: Mapping[str, Sequence[str]] | None = None,
    unnamed: Mapping[str, Sequence[str]] | None = None,
    allow_download: bool = False,
) -> Suite:
    """A first answer about erasures, of about 120 images of each method for one concept.

    Args:
        pipe: The pipeline.
        erasures: What is evaluated.
        judges: One that recognises concepts; `None` means CLIP, zero-shot.
        words: Further wordings of each concept: synonyms, other languages.
        unnamed: Prompts that can show a concept without its words; without them, the nearest general prompt.
        allow_download: Whether CLIP's weights may be downloaded.

    Raises:
        ValueError: If there is no erasure, or `words` or `unnamed` has a concept that is not erased.
        FileNotFoundError: If CLIP's weights are needed and missing.
    """
    if not erasures:
        raise ValueError("This suite asks about erasures; give at least one.")
    device = find_denoiser(pipe)[1].device
    clip = (
        None if judges else CLIP(device=device, allow_download=allow_download)
    )  # weights that are missing are an error at once
    known, draws = _all_known(judges), _takes_negative_prompts(pipe)
    asked: dict[tuple[str, str], list[Asked]] = {}
    concepts = {concept: e.config for e in erasures for concept in e.provenance.concepts}
    for name, given in (("words", words), ("unnamed", unnamed)):
        if unknown := sorted(set(given or ()) - concepts.keys()):
            raise ValueError(f"`{name}` has {unknown[0]!r}; the erasures have {', '.join(map(repr, concepts))}.")
    notes = [] if draws else [f"A {type(pipe).__name__} takes no negative prompt, so none was asked for."]
    for concept, config in concepts.items():
        if not known(concept):
            notes.append(f"No judge knows {concept!r}, so nothing is said about whether it is gone.")
            continue
        around = surroundings(pipe, concept, concepts, config, NEIGHBOURS, known)
        others = [*(text for text, _ in wordings(concept)), *(words or {}).get(concept, ())]
        asked |= _about(concept, others, (unnamed or {}).get(concept) or around.unnamed, negative=draws)
        for group, prompts in (("neighbours by text", around.by_text), ("neighbours by score", around.by_score)):
            of_all = asked.setdefault((group, ""), [])
            of_all += [(p, p, "") for p in prompts if (p, p, "") not in of_all for _ in range(EACH)]
    erased = {key(c) for c in concepts} | {key(s) for e in erasures if e.config for s in e.config.synonyms}
    general = [p for p in GENERAL if key(p) not in erased and known(p)]
    asked["general", ""] = [(p, p, "") for p in general for _ in range(EACH)]
    prompt_set = _prompts(asked)
    own = tuple(judges or [_zero_shot(prompt_set, clip)])
    return Suite("quick", prompt_set, own, groups=GROUPS, notes=tuple(notes))


def _about(
    concept: str, others: Sequence[str], unnamed: Sequence[str], *, negative: bool
) -> dict[tuple[str, str], list[Asked]]:
    """What is asked about a concept, by group.

    Args:
        concept: The concept.
        others: Other wordings of it.
        unnamed: Prompts that can show it without its words.
        negative: Whether it is also asked for with a negative prompt.
    """
    each_unnamed = max(1, UNNAMED // len(unnamed))
    asked: dict[tuple[str, str], list[Asked]] = {
        ("named", concept): [(concept, concept, "")] * NAMED,
        ("other words", concept): [(text, concept, "") for text in dict.fromkeys(others) for _ in range(EACH)],
        ("unnamed", concept): [(text, concept, "") for text in unnamed for _ in range(each_unnamed)],
    }
    if negative:
        asked["negative prompt", concept] = [(concept, concept, AGAINST)] * (NAMED // 2)
    return asked


def _prompts(asked: Mapping[tuple[str, str], Sequence[Asked]]) -> PromptSet:
    """The prompts of each group and concept. Every image has a seed of its own."""
    seeds = count(FIRST_SEED)
    prompts = [
        Prompt(
            case=f"{group.replace(' ', '-')}-{number:04d}",
            text=text,
            seed=seed,
            group=group,
            concept=concept,
            labels={"subject": label},
            negative_prompt=against,
        )
        for (group, concept), images in asked.items()
        for text, label, against in images
        for seed in [next(seeds)]
        for number in [seed - FIRST_SEED]
    ]
    return PromptSet("quick", tuple(prompts), source="made from the concepts and the text encoder's vocabulary")


def _takes_negative_prompts(pipe: DiffusionPipeline) -> bool:
    return "negative_prompt" in signature(type(pipe).__call__).parameters


def _all_known(judges: Sequence[Judge] | None) -> Callable[[str], bool]:
    """Whether a judge that recognises knows a label."""
    recognisers = [judge for judge in judges or () if judge.kind == "recognises"]
    return lambda label: all(judge.knows(label) for judge in recognisers)


def _zero_shot(prompts: PromptSet, clip: CLIP | None) -> Judge:
    """Tells the labels of all prompts from each other, and from the most general ones."""
    labels = dict.fromkeys(label for prompt in prompts for label in prompt.labels.values())
    return CLIPZeroShot([*labels, *(p for p in GENERIC if p not in labels)], clip=clip)
