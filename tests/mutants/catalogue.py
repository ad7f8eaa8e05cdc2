"""All planted bugs, in the order in which `docs/testing.md` has them."""

from tests.mutants import in_deliveries, in_jobs, in_peers, in_storage

MUTANTS = (*in_storage.MUTANTS, *in_deliveries.MUTANTS, *in_jobs.MUTANTS, *in_peers.MUTANTS)
