"""Sends the audit to the worker beside this file as one workflow, follows it, and shows the report.

python send.py [FOLDER ...]        folders with installed packages; those of this Python if none is named
"""

import sys
import sysconfig
from pathlib import Path
from uuid import uuid4

from zclient import Client, ResultTimeout, Workflow


def audit(folders: list[str]) -> Workflow:
    """A job for each package, one that gathers what they found, one that writes the report.

    The workers may stand in another folder, so what they are told of are whole paths.
    """
    places = [Path(folder).resolve() for folder in folders]
    records = sorted(str(record) for place in places for record in place.glob("*.dist-info/RECORD"))
    run = uuid4().hex
    flow = Workflow("package-audit")
    extract = flow.group("extract", "audit-extract", records)
    load = flow.step("load", "audit-load", run, after=extract)
    flow.step("report", "audit-report", run, after=load)
    return flow


def main() -> None:
    flow = audit(sys.argv[1:] or [sysconfig.get_path("purelib")])
    with Client() as client:
        run = client.send_workflow(flow)
        print(f"sent: {run.id}, {len(run['extract'].jobs())} packages", flush=True)
        while True:
            try:
                status = run.wait(timeout="2s")
                break
            except ResultTimeout:
                print(f"{run.status().fraction:.0%}", flush=True)
        if status.state != "done":
            sys.exit(f"{status.state}, with {status.dead} dead jobs: look at `zclient workflow show {run.id}`")
        told = run.result("report")
        print(f"{told['packages']} packages, {told['files']} files, {told['faults']} not as installed")
        print(f"the report: {told['page']}")


if __name__ == "__main__":
    main()
