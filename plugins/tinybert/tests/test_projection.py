"""Which hidden states share a map."""

from __future__ import annotations

import pytest
import torch
from potstill_tinybert.projection import Projection, Sharing


@pytest.mark.parametrize(
    ("sharing", "groups", "bias"),
    [("shared", [[0, 1, 2]], True), ("paper", [[0], [1, 2]], False), ("per_layer", [[0], [1], [2]], False)],
)
def test_the_hidden_states_that_share_a_map(sharing: Sharing, groups: list[list[int]], bias: bool) -> None:
    projection = Projection(sharing, 4, 6, [0, 1, 2])
    hidden = torch.randn(2, 3, 4)
    outputs = [projection(hidden, layer) for layer in range(3)]
    assert outputs[0].shape == (2, 3, 6)
    for one in range(3):
        for other in range(3):
            together = any(one in group and other in group for group in groups)
            assert torch.equal(outputs[one], outputs[other]) == together
    assert sum(p.numel() for p in projection.parameters()) == len(groups) * (4 * 6 + 6 * bias)


def test_a_map_that_no_layer_needs_is_not_made() -> None:
    assert list(Projection("paper", 4, 6, [1, 2]).maps) == ["hidden"]
