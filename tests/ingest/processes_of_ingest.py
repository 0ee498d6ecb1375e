"""Ingests a folder, in a process of its own, together with others: prints its report."""

import sys

import truthloop

if __name__ == "__main__":
    with truthloop.open() as workspace:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        sys.stdin.readline()
        sys.stdout.write(workspace.ingest(sys.argv[1]).model_dump_json())
