"""The whole core against a small model: whatever peers, time and crashes do, no job is lost and none is done twice.

The model knows which jobs must be alive: those whose PUT was committed, less those that ended. After each step the
rows must hold exactly these, every one in one place with the counters equal (`zbroker.check`, which shares no
bookkeeping with the core), no worker with credit may be kept waiting, and fences must have grown. In the end all
that is alive is worked off, and every confirmed job has had exactly one end.

The rules are in ``model/broker.py`` and ``model/sends.py``; ``test_model_options.py`` adds what jobs and queues can
ask for.
"""

import pytest
from hypothesis import HealthCheck, Phase, settings

from tests.core.model.sends import Sends

pytestmark = pytest.mark.timeout(600)
"""It waits for nothing, and computes for long: on a slow and busy machine for minutes."""

Sends.TestCase.settings = settings(
    max_examples=500,
    stateful_step_count=40,
    deadline=None,
    report_multiple_bugs=False,
    # Shrinking a failure of so many steps takes minutes: add Phase.shrink when there is something to find.
    phases=(Phase.generate,),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TestBroker = Sends.TestCase
