"""What plugin authors test with: tiny data and recipes, and checks that every plugin should pass."""

from potstill.testing.contract import assert_resumes_exactly as assert_resumes_exactly
from potstill.testing.contract import assert_same_weights as assert_same_weights
from potstill.testing.contract import weights as weights
from potstill.testing.stages import engine_of as engine_of
from potstill.testing.stages import stage_of as stage_of
