"""The program `zclient`: its verbs, put together. What each does is in the module of its name."""

import click

from zclient.cli import bench, dead, jobs, openbatches, queues, schedules, sending, status, topics, workflows
from zclient.cli.common import VerbGroup, client_options, version_option


@click.group(
    "zclient",
    cls=VerbGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=(
        "Exit codes: 0 done; 1 the job failed or is not over; 2 usage; 3 the broker was not reached in time; "
        "4 refused; 5 not found."
    ),
)
@version_option
@client_options
def program() -> None:
    """Send jobs to a running zbroker, follow them, and look after its queues.

    --broker, --credentials, --timeout and --json may stand before the verb or behind it.
    """


for verb in (
    sending.send,
    jobs.show,
    jobs.why,
    jobs.result,
    jobs.cancel,
    jobs.list_jobs,
    queues.queue,
    dead.dead,
    schedules.schedule,
    workflows.workflow,
    openbatches.batch,
    topics.topic,
    status.worker,
    status.stats,
    bench.bench,
):
    program.add_command(verb)
