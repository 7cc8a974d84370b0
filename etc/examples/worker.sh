#!/bin/sh
# One stream after the other; Info comes on stdin, the exit status is the answer (0 done, 75 give back, 65 never again).
exec sluice-run "$@" -- sh -c 'echo "$SLUICE_STREAM (token $SLUICE_TOKEN): $(cat)"; sleep 1'
