"""The command line of `zbroker`. Importing it is cheap: the verbs are loaded when it runs."""


def main() -> int:
    """The program `zbroker`; returns its exit code."""
    try:
        from zbroker.cli.program import program
        from zclient.cli.common import run
    except KeyboardInterrupt:
        return 130  # Ctrl-C before anything began
    return run(program)
