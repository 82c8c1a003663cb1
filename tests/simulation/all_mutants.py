"""Every mutant: importing their files registers them."""

from tests.simulation import (  # noqa: F401 - see above
    cached_mutants,
    money_mutants,
    mutants,
    mutants_callbacks,
    mutants_runs,
    neighbour_mutants,
    order_mutants,
    person_mutants,
    quota_mutants,
    recovery_mutants,
    replaced_mutants,
)
from tests.simulation.mutant import MUTANTS

__all__ = ["MUTANTS"]
