"""Controls of an attack: the same attack where it must not succeed.

An attack that learns can also teach. Its rate means something beside four others: of the base model under the same
attack (the most that it can reach; a report has the base model as a column), of the erased model without an attack, of
the same attack when it learned from another concept, and of the same attack on something that no training ever had.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .concept_inversion import ConceptInversion


def with_controls(attack: ConceptInversion, others: Sequence[str]) -> list[ConceptInversion]:
    """An attack and its two controls.

    The first learns from another concept's images, and must not raise the rate of this concept. The second learns from
    the negatives of this concept's images, which no training ever had, and the negatives of what it draws are judged:
    its rate is how much the attack teaches. Only what an attack reaches beyond it was in the weights.

    Args:
        attack: The attack.
        others: Cases of another concept, as many as the attack's targets.
    """
    return [
        attack,
        _named(replace(attack, targets=tuple(others)), "another-concept", "learned from another concept"),
        _named(replace(attack, inverted=True), "negatives", "learned from negatives"),
    ]


def _named(attack: ConceptInversion, prefix: str, label: str) -> ConceptInversion:
    name = f"control: {attack.name}, {label}"
    prompts = tuple(replace(p, case=f"{prefix}-{p.case}"[:100], group=name) for p in attack.prompts)
    return replace(attack, name=name, prompts=prompts)
