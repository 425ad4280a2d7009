"""Which way to move word vectors, and how far. All norms are L2.

Every function takes `over`, the dimensions that one norm is taken over: `TABLE` for an embedding table [words, width]
as a whole, `EXAMPLE` for each row of an embedding's output [batch, seq, width] by itself.
"""

from __future__ import annotations

import torch
from torch import Tensor

TABLE = (0, 1)
EXAMPLE = (1, 2)


def direction(gradient: Tensor, over: tuple[int, int]) -> Tensor:
    """The gradient with norm 1 over `over`; 0 where its norm is 0 or not finite, so that nothing is moved there.

    Miyato et al., arXiv 1605.07725, eq. 5, without the epsilon. A constant factor of the loss changes nothing.
    """
    norm = _norm(gradient, over)
    usable = norm.isfinite() & (norm > 0)
    return torch.where(usable, gradient / norm, 0.0).to(gradient.dtype)


def within(shift: Tensor, epsilon: float, over: tuple[int, int]) -> Tensor:
    """The nearest shift whose norm over `over` is at most epsilon (Madry et al., arXiv 1706.06083, for the L2 ball)."""
    return (shift * (epsilon / _norm(shift, over)).clamp(max=1.0)).to(shift.dtype)


def ascended(shift: Tensor | None, gradient: Tensor, size: float, epsilon: float, over: tuple[int, int]) -> Tensor:
    """A shift after one more step of length `size` up the gradient, and back into the ball of radius epsilon.

    Args:
        shift: so far; None before the first step.
        gradient: of the loss where the shift has led so far; of the same shape.
    """
    step = size * direction(gradient, over)
    if shift is None and size <= epsilon:
        return step
    return within(step if shift is None else shift + step, epsilon, over)


def _norm(values: Tensor, over: tuple[int, int]) -> Tensor:
    half = values.dtype in (torch.float16, torch.bfloat16)
    norm: Tensor = torch.linalg.vector_norm(values, dim=over, keepdim=True, dtype=torch.float32 if half else None)
    return norm
