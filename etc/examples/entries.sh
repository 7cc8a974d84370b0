#!/bin/sh
# Each customer's events one after the other, whatever dies: one process per entry, its JSON on standard input.
# usage: entries.sh [SOCKET]
exec sluice-run -s "${1:-/run/sluiced/worker.sock}" -n 8 --each --fields=object -- sh -c '
	read -r entry
	echo "$SLUICE_STREAM: $entry"    # your work; exit 75 or fail: again later, exit 65: never again
'
