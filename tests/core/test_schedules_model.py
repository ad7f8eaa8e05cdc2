"""Schedules against a model that counts seconds: each occurrence has its one job, whatever the broker goes through.

The rules are in ``model/scheduled.py``.
"""

from hypothesis import HealthCheck, Phase, settings

from tests.core.model.scheduled import Scheduled

Scheduled.TestCase.settings = settings(
    max_examples=300,
    stateful_step_count=30,
    deadline=None,
    report_multiple_bugs=False,
    phases=(Phase.generate,),
    suppress_health_check=[HealthCheck.too_slow],
)
TestScheduled = Scheduled.TestCase
