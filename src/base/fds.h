/* fds - the three standard descriptors. */
#pragma once

/* Opens those of 0, 1 and 2 that whoever started us had closed, on /dev/null, so that no socket or pipe of ours comes to
 * stand there and gets what is written to standard error. Before anything else is opened. */
void fds_open_standard(void);
