r"""The training target of Erased Stable Diffusion, and the two sums of the alignment, which says how far it is reached.

Eq. 7 of Gandikota, Materzynska, Fiotto-Kaufman and Bau, "Erasing Concepts from Diffusion Models"
(arXiv:2303.07345), with the frozen model's predictions `e_cond` (for the concept) and `e_null` (for the empty prompt):

    e_student(x_t, c, t)  <-  e_null - eta * (e_cond - e_null)

An anchor prompt may take the place of the empty one; then `e_null` is the prediction for the anchor.

The coefficients on the right sum to 1, so the target commutes with affine maps of the prediction: noise, v, sample and
flow velocity share it.
"""

from __future__ import annotations

from torch import Tensor


def esd_target(e_cond: Tensor, e_null: Tensor, eta: float, e_from: Tensor | None = None) -> Tensor:
    """What the student should predict.

    Args:
        e_cond: Teacher's prediction for the concept, (B, C, H, W) or any shape that the others share.
        e_null: Teacher's prediction for the empty prompt.
        eta: Strength of the negative guidance, 0 or more, usually 1.
        e_from: Teacher's prediction for the prompt that the concept is erased from, if there is one. It replaces the
            first `e_null` (from the authors' later code, not in the paper).

    Returns:
        `e_null - eta * (e_cond - e_null)`, or `e_from - eta * (e_cond - e_null)`.
    """
    origin = e_null if e_from is None else e_from
    return origin - eta * (e_cond - e_null)


def projections(
    e_student: Tensor, e_cond: Tensor, e_null: Tensor, e_from: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Numerator and denominator of the alignment of each state, with the concept's direction `u = e_cond - e_null`.

    Alignment is the ratio of their sums over all states: 1 where the concept is intact, 0 where the student predicts
    what the teacher predicts for the empty prompt, `-eta` at the target. With `e_from` it starts at 0.

    Args:
        e_student: Student's predictions for the concept, or for `erase_from`, (B, C, H, W).
        e_cond: Teacher's predictions for the concept.
        e_null: Teacher's predictions for the empty prompt.
        e_from: Teacher's predictions for `erase_from`, if there is one.

    Returns:
        `<e_student - e_null, u>` and `<u, u>` of each state, (B,). With `e_from` the first is
            `<e_student - e_from, u>`.
    """
    u = (e_cond - e_null).flatten(1).float()
    origin = e_null if e_from is None else e_from
    return ((e_student - origin).flatten(1).float() * u).sum(1), u.square().sum(1)
