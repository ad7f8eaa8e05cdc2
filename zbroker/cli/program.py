"""The command line of `zbroker`: start a broker, look at its settings, check a data directory, see the demo.

The verbs about copies are in `copies`, and `doctor` in a file of its own.
"""

from pathlib import Path
from typing import Any

import click

from zbroker.cli.copies import backup, fork, restore
from zbroker.cli.doctor import doctor
from zbroker.cli.serving import FILE_ONLY, given, serve, setting_options
from zbroker.config import SETTINGS, load_config, shown
from zclient.cli.common import VerbGroup, json_option, settings, version_option
from zclient.cli.output import print_json, print_table
from zclient.protocol.options import QUEUE_OPTIONS


@click.group(
    "zbroker",
    cls=VerbGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done; 1 failed; 2 usage; 6 the data could not be opened or written.",
)
@version_option
def program() -> None:
    """A durable job queue and message broker."""


@program.command()
@setting_options
def start(config_file: str | None, **values: Any) -> None:
    """Start a broker; prints `ready ENDPOINT` once it serves.

    SIGTERM or Ctrl-C stops deliveries, lets running jobs settle for a while, and ends; a second one ends at once.
    Workers keep what they run over a restart.
    """
    serve(load_config(given(values), file=config_file))


@program.command("config")
@setting_options
@json_option
def show_config(config_file: str | None, **values: Any) -> None:
    """Show each setting, its value, and where that came from: an argument, a variable, a file, or the default."""
    config = load_config(given(values), file=config_file)
    if settings().json:
        print_json(
            {name: {"value": shown(name, config[name]), "source": config.sources[name]} for name in config.values}
        )
        return
    lines = []
    for name in config.values:
        value = shown(name, config[name])
        if name in FILE_ONLY:
            lines += [
                [f"{name}.{own}.{option}", one, config.sources[name], _help_of(name, option)]
                for own, options in value.items()
                for option, one in options.items()
            ]
            continue
        lines.append(
            [name, ",".join(value) if isinstance(value, list) else value, config.sources[name], SETTINGS[name].help]
        )
    print_table(["setting", "value", "source", "what it is"], [[str(cell) for cell in line] for line in lines])


def _help_of(name: str, option: str) -> str:
    return QUEUE_OPTIONS[option].help if name == "queues" else f"{option} of a schedule"


@program.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--repair", is_flag=True, help="Cut off a damaged end of the log, if nothing confirmed lies there.")
@json_option
def check(directory: Path, repair: bool) -> None:
    """Check the invariants of a data directory that no broker holds, and count what is in it."""
    from zbroker.check import check_directory
    from zbroker.storage.repair import repair as repair_directory

    if repair:
        click.echo(repair_directory(directory).summary(), err=True)
    report = check_directory(directory)
    if settings().json:
        print_json({"counts": report.counts, "faults": report.faults})
    else:
        print_table(["what", "rows"], [[name, str(number)] for name, number in report.counts.items()])
        for fault in report.faults:
            click.echo(f"fault: {fault}")
        click.echo("faults: none" if not report.faults else f"faults: {len(report.faults)}")
    if report.faults:
        raise click.exceptions.Exit(1)


@program.command()
@click.option("--keep", metavar="DIR", help="Keep the data directory and logs there.")
def demo(keep: str | None) -> None:
    """Run real work: index Python's standard library with several workers, killing one of them and the broker."""
    from zbroker.demo import run_demo

    raise click.exceptions.Exit(run_demo(keep))


for verb in (backup, restore, fork, doctor):
    program.add_command(verb)
