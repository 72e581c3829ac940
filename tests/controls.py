"""Controls: claims that must fail. A test whose control holds as well as its claim says nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_ended: list[bool] = []


@contextmanager
def must_fail(why: str) -> Iterator[None]:
    """A block whose assertion must fail: `with must_fail("the style does something"): assert torch.equal(x, y)`.

    Args:
        why: What the failure shows.

    Raises:
        AssertionError: If the block ends without one.
    """
    _ended.append(False)
    try:
        yield
    except AssertionError:
        _ended[-1] = True
    else:
        raise AssertionError(f"This control did not fail as it must: {why}.")


def take() -> tuple[int, int]:
    """How many controls ran since the last call, and how many of them failed as they must."""
    counts = len(_ended), sum(_ended)
    _ended.clear()
    return counts
