"""One target under atheris: ``python -m tests.fuzz.guided TARGET FOLDER... -max_total_time=60``, options of libFuzzer.

It never returns: libFuzzer ends the process, with another code than 0 if something was found.
"""

import sys

import atheris

if __name__ == "__main__":
    with atheris.instrument_imports(include=["zclient", "zbroker", "zworker"]):
        from tests.fuzz.targets import TARGETS
    atheris.Setup([sys.argv[0], *sys.argv[2:]], TARGETS[sys.argv[1]])
    atheris.Fuzz()
