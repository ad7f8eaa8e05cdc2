"""The command line of `zclient`, for a running broker. Importing it is cheap: the verbs are loaded when it runs."""

from zclient.cli.common import run


def main() -> int:
    """The program `zclient`; returns its exit code."""
    from zclient.cli.program import program

    return run(program)
