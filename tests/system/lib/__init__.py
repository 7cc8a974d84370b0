"""What the system tests stand on: Redis servers, daemons, workers, journals and their checkers."""
