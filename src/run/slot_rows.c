#include "run/slot_rows.h"

#include <stdio.h>
#include <string.h>

void slot_row_addr(const struct slot_range *row, char out[static SLOT_ROW_ADDR])
{
	if (row->port == 0)
		snprintf(out, SLOT_ROW_ADDR, "unix:%s", row->host);
	else
		snprintf(out, SLOT_ROW_ADDR, strchr(row->host, ':') ? "[%s]:%u" : "%s:%u", row->host, row->port);
}

static void complete_one(struct slot_range *row, const struct redis_addr *asked)
{
	const bool by_path = asked->port == 0;
	const char *host = asked->host;
	if (by_path && row->port) /* the path leads to the asked node only */
		host = row->alt[0] ? row->alt : "127.0.0.1";
	if (!row->host[0])
		snprintf(row->host, sizeof row->host, "%s", host);
	if (!row->port)
		row->port = asked->port;
}

size_t slot_rows_complete(
	struct slot_range *rows, size_t n, const struct redis_addr *asked, char odd[static SLOT_ROW_ODD])
{
	size_t left = 0;
	odd[0] = '\0';
	for (size_t i = 0; i < n; i++) {
		char addr[SLOT_ROW_ADDR];
		struct redis_addr unused;
		complete_one(&rows[i], asked);
		slot_row_addr(&rows[i], addr);
		if (redis_addr_parse(addr, &unused, NULL) == ERR_OK)
			rows[left++] = rows[i];
		else if (!odd[0])
			snprintf(odd, SLOT_ROW_ODD, "slots %u-%u at %s", rows[i].from, rows[i].to, addr);
	}
	return left;
}
