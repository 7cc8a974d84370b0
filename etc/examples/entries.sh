#!/bin/sh
# Each customer's events one after the other, whatever dies: one process per entry, its JSON on standard input.
# usage: entries.sh [OPTION of sluice-run]...
# shellcheck disable=SC2016 # the inner shell's variables
exec sluice-run -n 8 "$@" --each --fields=object -- sh -c '
	read -r entry
	echo "$SLUICE_STREAM: $entry"    # your work; exit 75 or fail: again later, exit 65: never again
'
