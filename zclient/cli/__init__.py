"""The command line of `zclient`, for a running broker. Importing it is cheap: the verbs are loaded when it runs."""


def main() -> int:
    """The program `zclient`; returns its exit code."""
    try:
        from zclient.cli.common import run
        from zclient.cli.program import program
    except KeyboardInterrupt:
        return 130  # Ctrl-C before anything began
    return run(program)
