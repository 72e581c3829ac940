"""The table that describes an erasure, in its card and in a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from .config import ESDConfig
from .provenance import Provenance

_PRESERVED = {"prompts": "prompts", "moments": "of them for the null space", "loss": "of them in the loss"}
_BARS = "▁▂▃▄▅▆▇█"
_INTACT, _HALF, _REACHED = 0.05, 0.3, 0.9  # of the way from the start to the target


def summarise(config: ESDConfig | None, provenance: Provenance, rank: int) -> dict[str, str]:
    """Text by the name of its row. A row is left out if the erasure has nothing to put there.

    Args:
        config: The configuration it was trained with; `None` for a merged or imported one.
        provenance: Where it comes from and how its training went.
        rank: Rank in every layer.
    """
    quantised = f", quantised: {provenance.base_quantization}" if provenance.base_quantization else ""
    rows = {"concept": ", ".join(provenance.concepts), "base model": provenance.base_model + quantised}
    if config is not None:
        rows["group"] = _group(config, provenance)
    rows["layers"] = f"{provenance.layers}, rank {rank}"
    if provenance.left_out:
        rows["layers left out"] = "; ".join(f"{len(names)}: {reason}" for reason, names in provenance.left_out.items())
    if config is not None:
        rows |= _training(config, provenance)
    if provenance.origin in ("merged", "refined"):
        rows[f"{provenance.origin} from"] = ", ".join(f"{part} x {scale:g}" for part, scale in provenance.parts)
    if provenance.origin == "imported":
        rows["imported from"] = ", ".join(part for part, _ in provenance.parts)
    if provenance.rank_error:
        rows["error of the lower rank"] = f"{provenance.rank_error:.1%}"
    return {name: text for name, text in rows.items() if text}


def outcome(config: ESDConfig, provenance: Provenance) -> str:
    """What the alignment at the end says, and what to do; of several concepts, about the one that is erased least.

    `""` if no iteration measured it.
    """
    measured = {concept: value for concept, value in provenance.alignments.items() if value is not None}
    if not measured:
        return ""
    concept = max(measured, key=measured.__getitem__)
    text = f"{concept}: alignment {measured[concept]:.2f}, target {-config.eta:g}: "
    return text + _verdict(measured[concept], config)


def is_intact(config: ESDConfig, provenance: Provenance) -> bool:
    """Whether no concept's alignment has moved."""
    measured = [value for value in provenance.alignments.values() if value is not None]
    return bool(measured) and all(_way(value, config) < _INTACT for value in measured)


def _start(config: ESDConfig) -> float:
    """The alignment before the first update."""
    return 1.0 if config.erase_from is None else 0.0


def _way(alignment: float, config: ESDConfig) -> float:
    """How far the alignment has come, from 0 at the start to 1 at the target."""
    return (_start(config) - alignment) / (_start(config) + config.eta)


def _verdict(alignment: float, config: ESDConfig) -> str:
    way, stop = _way(alignment, config), config.stop_at_alignment
    if way >= _REACHED or (stop is not None and alignment <= stop):
        return "reached"
    if way >= _HALF:
        return "the concept is weakened; look at images, and raise the iterations if they still show it"
    what = "nothing is erased" if way < _INTACT else "the concept is still there"
    return f"{what}; raise the learning rate, then the iterations"


def curve(values: Sequence[float], low: float, high: float, width: int = 32) -> str:
    """Numbers over time as a line of bars.

    Args:
        values: The numbers.
        low: What the lowest bar stands for, and lower numbers.
        high: What the highest bar stands for, and higher numbers.
        width: Most bars; each is the mean of its part of the numbers.
    """
    if not values:
        return ""
    width = min(width, len(values))
    edges = [round(i * len(values) / width) for i in range(width + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    heights = [(min(max(m, low), high) - low) / (high - low) for m in means]
    return "".join(_BARS[round(height * (len(_BARS) - 1))] for height in heights)


def alignment_curve(config: ESDConfig | None, provenance: Provenance) -> str:
    """The alignment over the training, from the target, the lowest bar, to the start, the highest."""
    low, high = (-1.0, 1.0) if config is None else (-config.eta, _start(config))
    return curve([alignment for _, alignment in provenance.history], low, high)


def _group(config: ESDConfig, provenance: Provenance) -> str:
    if config.group != "esd-x":
        return config.group
    if "attn2" not in provenance.pattern:
        return "esd-x: layers of the text alone"
    # A null space leaves out the queries and outputs, but only if there is something to preserve.
    is_confined = config.null_space and len(config.preserve) > 0
    return "esd-x: the cross-attentions' " + ("keys and values" if is_confined else "queries, keys, values, outputs")


def _training(config: ESDConfig, provenance: Provenance) -> dict[str, str]:
    kept = _words(provenance) if config.preserve == "vocabulary" else ", ".join(config.preserve)
    numbers = ", ".join(
        f"{provenance.preserved[key]} {words}" for key, words in _PRESERVED.items() if provenance.preserved.get(key)
    )
    rows = {
        "negative guidance": f"eta = {config.eta:g}",
        **({"erased towards": _anchors(provenance)} if any(provenance.anchors.values()) else {}),
        "preserved": (kept or "nothing") + (f" ({numbers})" if numbers else ""),
        "training": f"{provenance.iterations} iterations of {config.batch_size}{_processes(provenance)}, "
        f"{provenance.seconds:.0f} s, learning rate {config.learning_rate:g}"
        + ("" if provenance.complete else "; interrupted"),
    }
    if provenance.active:
        rows["trained on top of"] = ", ".join(f"{name} x {scale:g}" for name, scale in provenance.active.items())
    if provenance.beside:
        rows["switched off while training"] = ", ".join(provenance.beside)
    if provenance.alignment is not None:
        rows["alignment"] = _alignment(provenance.alignment, config, provenance)
        rows["outcome"] = outcome(config, provenance)
        rows["alignment over training"] = alignment_curve(config, provenance)
    return rows


def _processes(provenance: Provenance) -> str:
    return "" if provenance.processes == 1 else f" in each of {provenance.processes} processes"


def _words(provenance: Provenance) -> str:
    """How many of the text encoder's words are preserved."""
    if not (count := provenance.preserved.get("words")):
        return "words that the text encoder knows"
    return f"{count:,} of {provenance.preserved['vocabulary']:,} words that the text encoder knows"


def _anchors(provenance: Provenance) -> str:
    """The anchor of each concept, with its relative distance if it was chosen."""
    distances = {c: f" ({d:.2f} of the distance of the empty prompt)" for c, d in provenance.anchor_distances.items()}
    texts = {c: f"“{anchor}”" + distances.get(c, "") for c, anchor in provenance.anchors.items()}
    return next(iter(texts.values())) if len(texts) == 1 else ", ".join(f"{c}: {text}" for c, text in texts.items())


def _alignment(alignment: float, config: ESDConfig, provenance: Provenance) -> str:
    """The alignment with the ends of its scale; if there are several concepts, also that of each."""
    zero = "as for the anchor" if any(provenance.anchors.values()) else "as without the concept's words"
    scale = f"1: intact, 0: {zero}" if config.erase_from is None else "0: intact"
    text = f"{alignment:.2f} ({scale}, {-config.eta:g}: target)"
    each = [f"{concept} {value:.2f}" for concept, value in provenance.alignments.items() if value is not None]
    return text + (f"; {', '.join(each)}" if len(provenance.alignments) > 1 else "")
