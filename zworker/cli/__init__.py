"""The command line of `zworker`. Importing it is cheap: the verbs are loaded when it runs."""


def main() -> int:
    """The program `zworker`; returns its exit code."""
    try:
        from zclient.cli.common import run
        from zworker.cli.program import program
    except KeyboardInterrupt:
        return 130  # Ctrl-C before anything began
    return run(program)
