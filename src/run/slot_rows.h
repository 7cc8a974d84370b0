/* slot_rows - what a node's slot map leaves out, and rows that lead nowhere. Any thread; no I/O.
 * Promise: a row that is left has an address that can be dialled. */
#pragma once
#include "core/cmd.h"
#include "io/redis/conn.h"

enum { SLOT_ROW_ADDR = 300, SLOT_ROW_ODD = 400 };

/* "host:port" of the row's master; "unix:/path" when its port is 0 and its host a path. */
void slot_row_addr(const struct slot_range *row, char out[static SLOT_ROW_ADDR]);
/* An empty host is the one that was asked, port 0 the port that was asked. Asked at a path, a host is never that path,
 * unless the port is the asked one too: the node's own address will do, else this machine's. Rows that lead nowhere are
 * dropped, odd names the first ("" = none). Returns how many are left, in their order. */
size_t slot_rows_complete(
	struct slot_range *rows, size_t n, const struct redis_addr *asked, char odd[static SLOT_ROW_ODD]);
