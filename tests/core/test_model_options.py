"""The core against the model of all options: in any mix, then with jobs of a key in order, then delivered at most once.

The rules are in ``model/options.py`` and ``model/coming.py``, over those of ``model/broker.py``. An option that holds
from the start and is never changed allows a stronger claim: no job passes an earlier one of its lane, no job that may
have been started starts again.
"""

import pytest
from hypothesis import HealthCheck, Phase, settings

from tests.core.model.coming import OF_A_QUEUE
from tests.core.model.options import Options

pytestmark = pytest.mark.timeout(600)
"""It waits for nothing, and computes for long: on a slow and busy machine for minutes."""


def without(*names: str) -> dict[str, list[object]]:
    return {name: values for name, values in OF_A_QUEUE.items() if name not in names}


class InOrder(Options):
    """Jobs of a key run one after the other."""

    declared = {"q": {"key_limit": 1}, "r": {"key_limit": 1, "backoff": "constant"}}  # noqa: RUF012
    settable = without("key_limit")


class Once(Options):
    """What may have been started is not started again."""

    declared = {"q": {"delivery": "at_most_once"}, "r": {"delivery": "at_most_once"}}  # noqa: RUF012
    settable = without("delivery", "dead_to")


for machine, examples in ((Options, 400), (InOrder, 160), (Once, 160)):
    machine.TestCase.settings = settings(
        max_examples=examples,
        stateful_step_count=40,
        deadline=None,
        report_multiple_bugs=False,
        phases=(Phase.generate,),
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
TestOptions = Options.TestCase
TestInOrder = InOrder.TestCase
TestOnce = Once.TestCase
