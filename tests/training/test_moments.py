"""Directions and leaks, on made-up inputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from controls import must_fail
from tiny_language import tiny_wan
from torch import Tensor
from torch.overrides import TorchFunctionMode

from diffusers_esd import Limits
from diffusers_esd.families import Wan
from diffusers_esd.training.encoding import Encoded
from diffusers_esd.training.moments import Inputs, cross_fitted, directions, root, text_inputs


def moment(rows: Tensor) -> Tensor:
    return rows.T @ rows / len(rows)


def some_rows(n: int, d: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn((n, d), generator=generator) * torch.linspace(3, 0.1, d)).to(dtype)


def naive(kept: Tensor, concept: Tensor, rank: int, ridge: float) -> Tensor:
    """A by the formula, with matrices of d x d."""
    s, c = moment(kept), moment(concept)
    p = torch.linalg.inv(s / (ridge * s.diagonal().mean()) + torch.eye(len(s), dtype=s.dtype))
    values, vectors = torch.linalg.eigh(p @ c @ p)
    a = (vectors[:, -rank:] * values[-rank:].sqrt()).flip(1).T
    return a * (rank / (a @ c @ a.T).trace()).sqrt()


def assert_same_directions(a: Tensor, expected: Tensor, rtol: float) -> None:
    """Eigenvectors are known but for their signs."""
    signs = (a * expected).sum(1).sign()
    torch.testing.assert_close(a * signs[:, None], expected, rtol=rtol, atol=rtol / 10)


@pytest.mark.parametrize(("n", "m", "d"), [(200, 90, 24), (200, 9, 24), (30, 9, 48), (30, 60, 48), (7, 60, 24)])
def test_directions_are_the_naive_eigenvectors_whichever_matrix_is_smaller(n: int, m: int, d: int) -> None:
    """A layer wider than its inputs are many takes the other way, and any width gives the same A."""
    kept, concept = some_rows(n, d, 0, torch.float64), some_rows(m, d, 1, torch.float64)
    a, expected = directions(Inputs(kept, concept), 3, 0.05), naive(kept, concept, 3, 0.05)
    assert_same_directions(a, expected, 1e-8)
    assert_same_directions(directions(Inputs(kept.float(), concept.float()), 3, 0.05).double(), expected, 1e-3)
    assert (a @ moment(concept) @ a.T).trace().item() == pytest.approx(3, rel=1e-9)
    leak = (a @ moment(kept) @ a.T).trace().item() / 3
    assert Inputs(kept, concept).leak(a) == pytest.approx(leak, rel=1e-9)
    with must_fail("another ridge gives other directions"):
        assert_same_directions(directions(Inputs(kept, concept), 3, 0.5), expected, 1e-3)


class Largest(TorchFunctionMode):
    """The number of entries of the largest tensor that is made inside."""

    entries = 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        self.entries = max(self.entries, result.numel() if isinstance(result, Tensor) else 0)
        return result


def test_no_matrix_of_d_by_d_is_made_for_a_wide_layer() -> None:
    kept, concept = some_rows(40, 3000, 0), some_rows(10, 3000, 1)
    with Largest() as made:
        assert directions(Inputs(kept, concept), 4, 0.1).shape == (4, 3000)
    assert made.entries == kept.numel()
    with Largest() as made:
        naive(kept[:, :999], concept[:, :999], 4, 0.1)
    with must_fail("the formula as it is written makes one"):
        assert made.entries == kept.numel()


def test_rows_below_the_rank_of_the_inputs_are_zero() -> None:
    a = directions(Inputs(some_rows(9, 6, 0), some_rows(2, 6, 1)), 4, 0.1)
    assert a.shape == (4, 6)
    assert a[:2].abs().sum(1).min() > 0
    assert not a[2:].any()


def test_a_root_has_the_moment() -> None:
    wanted = moment(some_rows(5, 12, 0, torch.float64))
    torch.testing.assert_close(moment(root(wanted)), wanted)


@pytest.mark.parametrize("d", [12, 80])
def test_the_leak_of_halves_is_measured_on_the_other_half(d: int) -> None:
    first, second = (
        Inputs(some_rows(40, d, 2 * i, torch.float64), some_rows(20, d, 2 * i + 1, torch.float64)) for i in range(2)
    )
    strength = 0.05
    a, leak = cross_fitted([first, second], 3, strength)
    half, whole = strength * max(1, d / 40), strength * max(1, d / 80)
    of_first, of_second = (naive(part.kept, part.concept, 3, half) for part in (first, second))

    def answer(a: Tensor, rows: Tensor) -> float:
        return (a @ moment(rows) @ a.T).trace().item()

    leaks = [answer(a, o.kept) / answer(a, o.concept) for a, o in ((of_first, second), (of_second, first))]
    assert leak == pytest.approx(sum(leaks) / 2, rel=1e-6)
    answers = answer(of_first, second.concept) + answer(of_second, first.concept)
    both = naive(torch.cat([first.kept, second.kept]), torch.cat([first.concept, second.concept]), 3, whole)
    assert_same_directions(a, both * (3 / (answers / 2)) ** 0.5, 1e-6)


def test_what_lies_outside_the_preserved_span_is_heard_and_nothing_else() -> None:
    basis = torch.linalg.qr(torch.randn((16, 16), generator=torch.Generator().manual_seed(0))).Q
    kept = torch.randn((99, 10), generator=torch.Generator().manual_seed(1)) @ basis[:, :10].T
    inputs = Inputs(kept, (basis[:, 3] + basis[:, 12])[None])
    rows = directions(inputs, 1, 1e-4)
    assert inputs.leak(rows) < 1e-4
    assert torch.cosine_similarity(rows[0], basis[:, 12], dim=0).abs() > 0.999
    control = Inputs(kept, basis[:, 3][None])
    with must_fail("what is preserved itself cannot be told apart"):
        assert control.leak(directions(control, 1, 1e-4)) < 0.5


@pytest.mark.parametrize(("d", "n"), [(256, 2048), (1024, 1024), (2048, 768)])
def test_two_samples_of_one_distribution_are_told_apart_only_by_those_they_were_fitted_to(d: int, n: int) -> None:
    """Nothing tells the concept from the rest here, so no layer may pass, however wide."""

    def sample(seed: int, rows: int) -> Tensor:
        return some_rows(rows, d, seed)

    fitted = Inputs(sample(0, n), sample(1, n // 4))
    rows = directions(fitted, 4, Limits().state_strength * max(1.0, d / n))
    fresh = Inputs(sample(2, n), sample(3, n // 4))
    assert fresh.leak(rows) > 0.5
    if d >= n:
        with must_fail("on what it was fitted to a wide layer seems to tell them apart"):
            assert fitted.leak(rows) > 0.5


def test_padding_of_zeros_does_not_count() -> None:
    """Wan's prompts are padded with zeros: the null space must not depend on how many."""
    moments, naive_moments = [], []
    for length in (24, 48):
        encoded = Encoded(Wan(tiny_wan(), max_sequence_length=length))
        options = {"empty_share": 0.0, "sampled": False}
        inputs, _ = text_inputs(encoded, ["a dog", "a bus"], ["a cat"], ["a cat"], **options)
        moments.append(moment(inputs.concept))
        ((_, states),) = encoded.states(["a cat"])
        naive_moments.append(moment(states.flatten(0, 1)))
    torch.testing.assert_close(*moments, rtol=1e-3, atol=1e-4)
    with must_fail("the mean over all tokens halves with twice as many"):
        torch.testing.assert_close(*naive_moments, rtol=0.3, atol=1e-4)
