#!/bin/sh
# One stream after the other; Info comes on stdin, the exit status is the answer (0 done, 75 give back, 65 never again).
# sluice-run does the rest: SIGTERM lets the work finish, a restart of the daemon does not end it, a lease that ends does.
# usage: worker.sh [OPTION of sluice-run]...
# shellcheck disable=SC2016 # the inner shell's variables
exec sluice-run "$@" -- sh -c '
	info=$(cat)
	echo "$SLUICE_STREAM (token $SLUICE_TOKEN): $info"
	seconds=$(printf %s "$info" | sed -n "s/.*\"seconds\": *\([0-9.]*\).*/\1/p")
	sleep "${seconds:-1}"
'
