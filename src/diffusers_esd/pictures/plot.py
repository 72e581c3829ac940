"""`plot_history`: how a training went, as a figure: the loss above, the alignment below.

The alignment is always drawn from 1 (intact) to `-eta` (the target), so that two figures can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..config import ESDConfig
from ..erasure import Erasure
from ..provenance import Provenance

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SMOOTHING = 0.95  # as the smoothed alignment of a training, per iteration
_NEAR = 0.1  # of the height between the lowest and the highest level: their names would overlap
_MOST = 12  # concepts whose alignments at the end are marked
_INK, _FAINT, _LOSS, _ALIGNMENT, _TARGET, _STOP = "#222222", "#9aa5b1", "#3b6ea8", "#c2552d", "#2e7d4f", "#7a5195"


def plot_history(erasure: Erasure, *, width: float = 8.0, height: float = 5.5) -> Figure:
    """Loss and alignment over a training.

    Both are drawn for each iteration, and as a moving average. Dashed lines are the alignments of the base model, of
    the anchor's prediction and of the target, and `stop_at_alignment` if it was set. If two to twelve concepts were
    erased, a mark at the right is the smoothed alignment of each at the end: over time, only one for all is known.

    Args:
        erasure: A trained or refined erasure, also one that was interrupted.
        width: Of the figure, in inches.
        height: Of the figure, in inches.

    Returns:
        A figure of matplotlib. `figure.savefig(path)` writes it.

    Raises:
        ValueError: If the erasure has no history, because it was merged or imported.
        ImportError: If matplotlib is missing.
    """
    provenance, config = erasure.provenance, erasure.config
    if not provenance.history:
        raise ValueError(
            f"{erasure.name} has no history (it was {provenance.origin}); plot the erasures that it was made from."
        )
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('`plot_history` needs matplotlib: pip install "diffusers-esd[plot]".') from error
    losses, alignments = zip(*provenance.history, strict=True)
    eta = 1.0 if config is None else config.eta
    # Not from pyplot, which keeps every figure until it is closed.
    figure = Figure(figsize=(width, height), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 3))
    above.set_title(f"{erasure.name}: {', '.join(map(repr, provenance.concepts))}"[:90], loc="left", color=_INK)
    above.set(yscale="log", ylabel="loss")
    _draw(above, losses, _LOSS)
    above.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), frameon=False, ncols=2, fontsize="small")
    _draw(below, alignments, _ALIGNMENT)
    _mark_levels(below, _levels(config, provenance))
    _mark_concepts(below, provenance.alignments, len(losses))
    margin = 0.08 * (1 + eta)
    below.set(ylabel="alignment", xlabel="iteration", ylim=(-eta - margin, 1 + margin), xlim=(1, len(losses) + 0.5))
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color=_FAINT, alpha=0.2, linewidth=0.6)
    return figure


def moving_average(values: Sequence[float]) -> list[float]:
    """The exponential moving average of the values so far, with the weights of the first ones corrected."""
    total = weight = 0.0
    averages = []
    for value in values:
        total, weight = _SMOOTHING * total + value, _SMOOTHING * weight + 1.0
        averages.append(total / weight)
    return averages


def _draw(axes: Any, values: Sequence[float], color: str) -> None:
    iterations = range(1, len(values) + 1)
    axes.plot(iterations, values, color=color, alpha=0.3, linewidth=0.7, label="iteration")
    axes.plot(iterations, moving_average(values), color=color, linewidth=1.8, label="moving average")


def _levels(config: ESDConfig | None, provenance: Provenance) -> list[tuple[float, str, str]]:
    """Alignments that mean something, with their name and color."""
    config = config or ESDConfig()
    if config.erase_from is not None:
        levels = [(0.0, "intact", _FAINT)]
    else:
        zero = "as for the anchor" if any(provenance.anchors.values()) else "as without the concept's words"
        levels = [(1.0, "intact", _FAINT), (0.0, zero, _FAINT)]
    if config.stop_at_alignment is not None:
        levels.append((config.stop_at_alignment, "stop_at_alignment", _STOP))
    return [*levels, (-config.eta, "target", _TARGET)]


def _mark_levels(axes: Any, levels: Sequence[tuple[float, str, str]]) -> None:
    """A line across for each, with its name at the left: above the line, or below it if the next line is near."""
    height = max(level for level, _, _ in levels) - min(level for level, _, _ in levels)
    for level, name, color in levels:
        axes.axhline(level, color=color, linewidth=1.0, linestyle="--", zorder=1)
        is_near = any(0 < other - level < _NEAR * height for other, _, _ in levels)
        axes.annotate(
            name, (0.0, level), (4, -3 if is_near else 3), xycoords=("axes fraction", "data"),
            textcoords="offset points", va="top" if is_near else "bottom",
            color=color, fontsize="small", zorder=1,  # below the curves
        )  # fmt: skip


def _mark_concepts(axes: Any, alignments: dict[str, float | None], iterations: int) -> None:
    """If there are several concepts, a mark for each at the end, with its name outside of the axes."""
    measured = {concept: value for concept, value in alignments.items() if value is not None}
    if not 1 < len(measured) <= _MOST:
        return
    axes.scatter([iterations] * len(measured), list(measured.values()), 16, color=_INK, zorder=3, clip_on=False)
    for concept, value in measured.items():
        axes.annotate(
            concept, (1.0, value), (6, 0), xycoords=("axes fraction", "data"), textcoords="offset points",
            va="center", color=_INK, fontsize="small", annotation_clip=False,
        )  # fmt: skip
