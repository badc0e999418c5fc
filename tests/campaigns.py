"""How much of a campaign runs: a little in the default run, a fixed slice of it in CI, all of it with `-m slow`.

A campaign is a test whose cost is an amount: seeds, flips, points at which to die. `amounts` makes its
parameters, so that the small and the large run are one test.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

CI = (pytest.mark.slow, pytest.mark.ci)
"""The marks of what CI runs besides the default run."""


def amounts(quick: object, ci: object) -> Sequence[Any]:
    """Returns the parameters of a campaign: the default run's, and CI's, which `-m slow` runs as well."""
    return [pytest.param(quick, id="quick"), pytest.param(ci, id="ci", marks=CI)]
