"""Cards: the README of an erasure, a recipe or a baked pipeline on the Hugging Face Hub.

Our part of a card stands between two comments. `update_card` replaces this part and our metadata in a card that exists,
and keeps everything else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from .config import ESDConfig
from .provenance import Origin, Provenance
from .report import Report
from .report_table import table
from .summary import summarise

TAGS = ("diffusers", "lora", "concept-erasure", "esd", "text-to-image")
_BEGIN, _END = "<!-- diffusers-esd: begin -->", "<!-- diffusers-esd: end -->"
_PAPER = "[Erasing Concepts from Diffusion Models](https://arxiv.org/abs/2303.07345)"
_USE = """
## Use it

```python
from diffusers import DiffusionPipeline

pipe = {pipeline}
pipe.load_lora_weights("{repo_id}", adapter_name="{name}")
```

Together with others, each with a scale (1 is the erasure as trained, 0 the base model):

```python
from diffusers_esd import stack

stack(pipe, {{"{repo_id}": 1.0}})
```
"""
_LIMITS = """## Limits

- A LoRA can be removed. It serves people who want the erasure, and does not stop people who do not want it.
  `diffusers_esd.bake` writes it into the weights.
- A negative scale turns the erasure into its inverse, which amplifies the concept.
- Erasure is seldom complete. Other words, other languages and attacks may bring a concept back. An attack that inverts
  a picture without text is reported to recover 79 to 93 % of nudity against published methods
  ([arXiv:2603.17828](https://arxiv.org/abs/2603.17828)).
- Similar concepts may have changed. Compare with the base model.
- The licence of the base model applies."""
_RECIPE = """## Use it

```python
from diffusers_esd import stack

stack(pipe, "{repo_id}")
```

`pipe` is a diffusers pipeline of the base model. A scale of 1 is the erasure as trained, 0 the base model.
"""
_HOW: dict[Origin, str] = {
    "trained": "It was trained with diffusers-esd, after",
    "merged": "It was merged from several erasures with diffusers-esd, which implements",
    "refined": "It was refined from several erasures with diffusers-esd, which implements",
    "imported": "It was trained with another tool and imported with diffusers-esd, which implements",
}
_OURS = ("base_model", "base_model_relation", "widget")


def is_repo_id(text: str) -> bool:
    """Whether a text can be the id of a repository, `user/name`."""
    try:
        validate_repo_id(text)
    except HFValidationError:
        return False
    return text.count("/") == 1


def erasure_card(
    name: str,
    repo_id: str,
    config: ESDConfig | None,
    provenance: Provenance,
    *,
    rank: int,
    kohya: str | None = None,
    images: Mapping[str, str] | None = None,
    report: Report | None = None,
    report_picture: str | None = None,
) -> str:
    """The card of an erasure.

    Args:
        name: Name of the erasure.
        repo_id: The repository, `user/name`.
        config: The configuration it was trained with; `None` for a merged or imported one.
        provenance: Where it comes from and how its training went.
        rank: Rank in every layer.
        kohya: Name of the file in kohya's names, if there is one.
        images: File names of the gallery's images by prompt.
        report: What an evaluation found.
        report_picture: File name of its picture.
    """
    concepts = ", ".join(f"“{_escaped(concept)}”" for concept in provenance.concepts)
    base, has_id = provenance.base_model, is_repo_id(provenance.base_model)
    widget = [{"text": prompt, "output": {"url": url}} for prompt, url in (images or {}).items()]
    lines = [
        _BEGIN,
        f"This adapter erases {concepts} from {base}. {_HOW[provenance.origin]} {_PAPER}.",
        "",
        *_rows(("", ""), [(key, _escaped(text)) for key, text in summarise(config, provenance, rank).items()]),
        *(["\n<Gallery />"] if widget else []),
        *([] if report is None else _measured(report, report_picture)),
        _USE.format(
            pipeline=f'DiffusionPipeline.from_pretrained("{base}")' if has_id else "...  # the base model",
            repo_id=repo_id,
            name=name,
        ),
        *(
            [f"For ComfyUI, Forge or A1111, put `{kohya}` into the folder of LoRAs and load it at 1.\n"]
            if kohya
            else []
        ),
        _LIMITS,
        _END,
    ]
    data = _metadata(TAGS, base, "adapter") | ({"widget": widget} if widget else {})
    return _document(data, f"\n# {name}\n\n" + "\n".join(lines) + "\n")


def _measured(report: Report, picture: str | None) -> list[str]:
    """What is gone and what stayed, beside the base model."""
    judges = ", ".join(report.judges)
    return [
        "\n## What is gone and what stayed\n",
        *([f"![Images of the base model and of the erasure]({picture})\n"] if picture else []),
        table(report),
        f"\nSuite {report.suite}, {report.created}; judged by {judges}. Every column has the same prompts and seeds; "
        "intervals are of 95 %. `report.json` has everything that is needed to repeat it.",
    ]


def recipe_card(repo_id: str, entries: Sequence[tuple[str, str | None, float]]) -> str:
    """The card of a recipe.

    Args:
        repo_id: The repository, `user/name`.
        entries: Source, revision and scale of each erasure; `None` means the main branch.
    """
    rows = [
        (f"[{source}](https://huggingface.co/{source})", f"`{revision or 'main'}`", f"{scale:g}")
        for source, revision, scale in entries
    ]
    lines = [
        _BEGIN,
        "This is a recipe of diffusers-esd: erasures that act together, each with a scale. It contains no weights; "
        "`stack` downloads them.",
        "",
        *_rows(("erasure", "revision", "scale"), rows),
        "",
        _RECIPE.format(repo_id=repo_id),
        _LIMITS,
        _END,
    ]
    # Not "diffusers" or "lora": for these the Hub shows code that cannot load a recipe.
    tags = ["diffusers-esd", "recipe", *(tag for tag in TAGS if tag not in ("diffusers", "lora"))]
    data = {"pipeline_tag": "text-to-image", "tags": tags}
    return _document(data, f"\n# {repo_id.partition('/')[2]}\n\n" + "\n".join(lines) + "\n")


def baked_card(base: str, erased: Sequence[tuple[Sequence[str], str, float]]) -> str:
    """The card of a pipeline with erasures in its weights.

    Args:
        base: Name of the pipeline's model.
        erased: Concepts, name and scale of each erasure.
    """
    lines = [
        f"{base} with concepts erased from its weights by diffusers-esd, after {_PAPER}.",
        "",
        *_rows(
            ("concept", "erasure", "scale"),
            [(_escaped(", ".join(concepts)), name, f"{scale:g}") for concepts, name, scale in erased],
        ),
        "",
        "Erasure is seldom complete, and similar concepts may have changed. The licence of the base model applies.",
    ]
    data = _metadata([tag for tag in TAGS if tag != "lora"], base, "finetune")
    return _document(data, "\n" + "\n".join(lines) + "\n")


def update_card(published: str, new: str) -> str:
    """A published card with our part and our metadata replaced by those of a new card; all else is kept.

    Args:
        published: Text of the card that exists.
        new: What `erasure_card` or `recipe_card` returned.
    """
    old_card, new_card = ModelCard(published), ModelCard(new)
    old, new_data = (dict(card.data.to_dict()) for card in (old_card, new_card))  # type: ignore[no-untyped-call]
    old = {key: value for key, value in old.items() if key not in _OURS}
    data = {**old, **new_data, "tags": list(dict.fromkeys([*old.get("tags", []), *new_data["tags"]]))}
    ours = new_card.text[new_card.text.index(_BEGIN) : new_card.text.index(_END) + len(_END)]
    text = old_card.text
    if _BEGIN in text and _END in text:
        text = text[: text.index(_BEGIN)] + ours + text[text.index(_END) + len(_END) :]
    else:
        text = text.rstrip() + "\n\n" + ours + "\n"
    return _document(data, text)


def _metadata(tags: Sequence[str], base: str, relation: str) -> dict[str, Any]:
    data: dict[str, Any] = {"library_name": "diffusers", "pipeline_tag": "text-to-image", "tags": list(tags)}
    return data | ({"base_model": base, "base_model_relation": relation} if is_repo_id(base) else {})


def _rows(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table in Markdown."""
    head, *body = [f"| {' | '.join(row)} |" for row in [header, *rows]]
    return [head, "|" + "---|" * len(header), *body]


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is, also in a table."""
    return re.sub(r"[\\|*<`\[]", r"\\\g<0>", text.replace("\n", " "))


def _document(data: Mapping[str, Any], text: str) -> str:
    return f"---\n{ModelCardData(**data).to_yaml()}\n---\n{text}"
