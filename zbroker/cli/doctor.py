"""The verb `zbroker doctor`."""

from pathlib import Path

import click

from zbroker.config import load_config
from zclient.cli.common import EXIT_FAILED, EXIT_UNREACHABLE, advice, client_options, connect, settings
from zclient.cli.output import print_json, print_table
from zclient.errors import AnswerTimeout, BrokerUnreachable


@click.command()
@click.option("--data", metavar="DIR", help="The broker's data directory.  [default: as for start]")
@click.option("--config", "config_file", metavar="FILE", help="TOML file.  [default: ./zbroker.toml]")
@client_options
def doctor(data: str | None, config_file: str | None) -> None:
    """Look for what will hurt: disk, fsync, clock, file limits, peers' versions, queues, leases, dead jobs.

    The first four on this host, in the data directory; the others by asking the broker. Changes nothing. Exit code 0:
    nothing to do; 1: there is a warning or worse; 3: the broker was not reached.
    """
    from zbroker.doctor import Finding, Grade, files, look_at_host
    from zbroker.doctor_broker import look_at_broker

    config = load_config({"data": data}, file=config_file)
    path = Path(config["data"])
    found = look_at_host(path, config["disk_floor"])
    is_reached = True
    try:
        with connect() as client:
            found += look_at_broker(client)
    except (BrokerUnreachable, AnswerTimeout) as error:
        is_reached = False
        found.append(Finding("broker", Grade.BAD, advice(error, settings()), {}))
    peers = next((finding.figures["peers"] for finding in found if finding.check == "broker" and finding.figures), 0)
    found.append(files(path, peers))
    if settings().json:
        print_json([finding._asdict() for finding in found])
    else:
        print_table(["check", "grade", "what"], [[finding.check, finding.grade, finding.text] for finding in found])
    if not is_reached:
        raise click.exceptions.Exit(EXIT_UNREACHABLE)
    if any(finding.grade in (Grade.WARNING, Grade.BAD) for finding in found):
        raise click.exceptions.Exit(EXIT_FAILED)
