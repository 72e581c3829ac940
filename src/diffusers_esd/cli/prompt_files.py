"""Files of prompts of other tools, as concepts and fields: LECO's, sd-scripts' and ai-toolkit's.

Each of them trains the student at a prompt t towards

    e_n - g * (e_p - e_u)

with t `target`, p `positive`, u `unconditional`, n `neutral` and g `guidance_scale`. Ours is `e_a - eta * (e_c - e_a)`
at the concept c with the anchor a, or `e_f - eta * (e_c - e_a)` at f, `erase_from`. So these are equal:

    t = p, n = u        c = p, a = u, eta = g
    t = n               f = t, c = p, a = u, eta = g
    t = n = p           c = p, a = u, eta = g - 1

Anything else is refused. Sources: `prompt_util.py` of LECO, `library/leco_train_util.py` of sd-scripts,
`jobs/process/TrainSliderProcess.py` and `extensions_built_in/concept_slider` of ai-toolkit.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .documents import read_document

_ENDINGS = (".yaml", ".yml", ".toml", ".json")
_PROMPTS = ("target", "positive", "unconditional", "neutral")
_ENTRY = (*_PROMPTS, "action", "guidance_scale")
_TARGET = ("target_class", "positive", "negative", "neutral", "guidance_scale", "shuffle")
_SLIDER = ("target_class", "positive_prompt", "negative_prompt", "guidance_strength")
_SHARED = ("resolution", "batch_size")
_WITHOUT_EFFECT = {
    "multiplier": 1.0, "weight": 1.0, "bucketing": False, "dynamic_resolution": False, "dynamic_crops": False,
    "shuffle": False,
}  # fmt: skip
"""Fields that are accepted with this value alone, which changes nothing."""


def read_prompts(file: Path) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The concepts in a file of prompts, and the fields of `ESDConfig` that follow from it.

    Args:
        file: LECO's list of prompts, sd-scripts' file of `prompts` or `targets`, or a job of ai-toolkit with a slider.

    Returns:
        The concepts, and values for `eta`, `anchor` and, if the file has them, `erase_from`, `size`, `batch_size`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged or another kind of file, or an entry has no equal here; the message says why.
        TypeError: If a value has the wrong type.
        ImportError: If it is a YAML file and PyYAML is missing.
    """
    if not file.is_file():
        raise FileNotFoundError(f"There is no file {file}; give a file of prompts, such as prompts.yaml.")
    if file.suffix not in _ENDINGS:
        raise ValueError(f"{file} is not a file of prompts; expected one that ends in {', '.join(_ENDINGS)}.")
    entries = _entries(file, read_document(file))
    mapped = [_mapped(entry, f"{file}, entry {number}") for number, entry in enumerate(entries, 1)]
    concepts = tuple(fields.pop("concept") for fields in mapped)
    anchors = tuple(fields.pop("anchor") for fields in mapped)
    if any(fields != mapped[0] for fields in mapped):
        raise ValueError(
            f"{file} has entries with different settings, {' and '.join(map(str, mapped))}, and an adapter has one; "
            "train them one by one."
        )
    if len(mapped) > 1 and "erase_from" in mapped[0]:
        raise ValueError(
            f"{file} has {len(mapped)} entries, and `erase_from` is for a single concept; train them one by one."
        )
    return concepts, {"anchor": anchors[0] if len(set(anchors)) == 1 else anchors, **mapped[0]}


def _entries(file: Path, values: Any) -> list[dict[str, Any]]:
    """The entries of a file, each in LECO's words."""
    if isinstance(values, dict) and isinstance(values.get("config"), dict):
        values = _slider_of_job(file, values["config"])
    if isinstance(values, dict) and isinstance(values.get("slider"), dict):
        values = values["slider"]
    if isinstance(values, dict) and "positive_prompt" in values:
        return [_of_concept_slider(values, str(file))]
    if isinstance(values, dict) and ("target" in values or "target_class" in values):
        values = [values]
    elif isinstance(values, dict):
        kind = next((name for name in ("prompts", "targets") if name in values), None)
        shared = {name: value for name, value in values.items() if name != kind}
        values = None if kind is None else values[kind]
        values = [{**shared, **item} for item in values] if _is_list(values) else values
    if not _is_list(values):
        raise ValueError(
            f"{file} has no prompts: expected a list of entries with `target`, as LECO's, `prompts` or `targets`, as "
            "sd-scripts', or a job of ai-toolkit with `slider`."
        )
    return [_of_target(item, str(file)) if "target_class" in item else _of_leco(item, str(file)) for item in values]


def _is_list(values: Any) -> bool:
    return isinstance(values, list) and len(values) > 0 and all(isinstance(item, dict) for item in values)


def _slider_of_job(file: Path, job: Mapping[str, Any]) -> Any:
    processes = job.get("process")
    items = processes if isinstance(processes, list) else []
    sliders = [item["slider"] for item in items if isinstance(item, dict) and isinstance(item.get("slider"), dict)]
    if len(sliders) != 1:
        raise ValueError(f"{file} has {len(sliders)} processes with `slider`; expected one.")
    return {name: value for name, value in sliders[0].items() if name not in ("batch_full_slide", "low_ram")}


def _checked(item: Mapping[str, Any], known: tuple[str, ...], place: str) -> dict[str, Any]:
    """The fields of an entry that mean something, after the others were refused."""
    item = dict(item)
    if sizes := item.pop("resolutions", None):
        if len(sizes) != 1:
            raise ValueError(f"{place}: `resolutions` has {len(sizes)} sizes, and a training has one; leave one.")
        item["resolution"] = sizes[0]
    for name, value in _WITHOUT_EFFECT.items():
        if item.pop(name, value) != value:
            raise ValueError(f"{place}: `{name}` must be {value} or be left out; a training here does not have it.")
    if unknown := [name for name in item if name not in (*known, *_SHARED)]:
        raise ValueError(f"{place}: `{unknown[0]}` is not read; expected {', '.join((*known, *_SHARED))}.")
    return item


def _of_leco(item: Mapping[str, Any], place: str) -> dict[str, Any]:
    item = _checked(item, _ENTRY, place)
    if "target" not in item:
        raise ValueError(f"{place}: an entry must have `target`; got {item!r}.")
    unconditional = item.get("unconditional", "")
    return {
        "positive": item["target"], "neutral": unconditional, "unconditional": unconditional, "action": "erase",
        "guidance_scale": 1.0, **{name: value for name, value in item.items() if value is not None},
    }  # fmt: skip


def _of_target(item: Mapping[str, Any], place: str) -> dict[str, Any]:
    """A target of a slider with its negative side alone, which is an eraser."""
    item = _checked(item, _TARGET, place)
    if str(item.get("positive") or "").strip() or not str(item.get("negative") or "").strip():
        raise ValueError(
            f"{place}: a target with `positive` is a slider, and amplifies it; expected `negative` alone, which "
            f"erases. Got positive={item.get('positive')!r} and negative={item.get('negative')!r}."
        )
    entry = {name: item[name] for name in ("guidance_scale", *_SHARED) if name in item}
    target = {"target": item["target_class"], "positive": item["negative"], "neutral": item.get("neutral") or ""}
    return {"guidance_scale": 1.0, **entry, **target, "unconditional": "", "action": "erase"}


def _of_concept_slider(item: Mapping[str, Any], place: str) -> dict[str, Any]:
    """The side of a concept slider at scale 1: away from its negative prompt, towards its positive one."""
    item = _checked(item, _SLIDER, place)
    target = item.get("target_class", "")
    shared = {name: item[name] for name in _SHARED if name in item}
    negative, positive = item.get("negative_prompt", ""), item["positive_prompt"]
    scale = item.get("guidance_strength", 3.0)
    entry = {"target": target, "neutral": target, "positive": negative, "unconditional": positive, "action": "erase"}
    return {**entry, "guidance_scale": scale, **shared}


def _mapped(entry: Mapping[str, Any], place: str) -> dict[str, Any]:
    """An entry in LECO's words as `concept`, `anchor`, and the fields that all concepts share."""
    _check_entry(entry, place)
    target, positive, unconditional, neutral = (entry[name] for name in _PROMPTS)
    fields: dict[str, Any] = {"concept": positive, "anchor": unconditional, "eta": float(entry["guidance_scale"])}
    if target == positive == neutral:
        fields["eta"] -= 1
    elif target == neutral:
        fields["erase_from"] = target
    elif target != positive or neutral != unconditional:
        raise ValueError(
            f"{place}: `neutral` must be `unconditional`, with `positive` as `target`, or `neutral` must be `target`; "
            f"got target={target!r}, positive={positive!r}, unconditional={unconditional!r}, neutral={neutral!r}."
        )
    if "resolution" in entry:
        fields["size"] = _side(entry["resolution"], place)
    if "batch_size" in entry:
        fields["batch_size"] = entry["batch_size"]
    return fields


def _check_entry(entry: Mapping[str, Any], place: str) -> None:
    """Refuse values that mean nothing."""
    if entry["action"] != "erase":
        raise ValueError(
            f"{place}: `action` must be 'erase', got {entry['action']!r}. An erasure does not amplify; train one, and "
            "load it at a negative scale."
        )
    for name in _PROMPTS:
        may_be_empty = name in ("unconditional", "neutral")
        if not isinstance(entry[name], str) or not (may_be_empty or entry[name].strip()):
            kind = "a prompt" if may_be_empty else "a prompt that is not empty"
            raise ValueError(f"{place}: `{name}` must be {kind}, got {entry[name]!r}.")
    scale = entry["guidance_scale"]
    if isinstance(scale, bool) or not isinstance(scale, int | float):
        raise ValueError(f"{place}: `guidance_scale` must be a number, got {scale!r}.")


def _side(value: Any, place: str) -> int:
    sides = set(value) if isinstance(value, list) else {value}
    if len(sides) != 1 or not all(isinstance(side, int) for side in sides):
        raise ValueError(f"{place}: `resolution` must be the side of a square, such as 512; got {value!r}.")
    return int(sides.pop())
