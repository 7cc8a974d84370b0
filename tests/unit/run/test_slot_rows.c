#include "run/slot_rows.h"
#include <criterion/criterion.h>
#include <stdio.h>

static char odd[SLOT_ROW_ODD];

static struct slot_range row(const char *host, uint16_t port, const char *alt)
{
	struct slot_range r = {.from = 5, .to = 9, .port = port};
	snprintf(r.host, sizeof r.host, "%s", host);
	snprintf(r.alt, sizeof r.alt, "%s", alt);
	return r;
}

/* The address of a row of a node that was asked at `asked`; "" = dropped. */
static const char *leads_to(const char *asked, struct slot_range r)
{
	static char addr[SLOT_ROW_ADDR];
	struct redis_addr a;
	cr_assert_eq(redis_addr_parse(asked, &a, NULL), ERR_OK);
	addr[0] = '\0';
	if (slot_rows_complete(&r, 1, &a, odd))
		slot_row_addr(&r, addr);
	return addr;
}

Test(slot_rows, what_is_there_stays)
{
	cr_expect_str_eq(leads_to("a:1", row("b", 2, "c")), "b:2");
	cr_expect_str_eq(leads_to("unix:/run/r", row("b", 2, "c")), "b:2");
	cr_expect_str_eq(leads_to("a:1", row("fd00::1", 2, "")), "[fd00::1]:2");
	cr_expect_str_eq(odd, "");
}

Test(slot_rows, what_is_left_out_is_what_was_asked)
{
	cr_expect_str_eq(leads_to("a:1", row("", 2, "c")), "a:2");
	cr_expect_str_eq(leads_to("[::1]:1", row("", 2, "")), "[::1]:2");
	cr_expect_str_eq(leads_to("a:1", row("b", 0, "")), "b:1");
	cr_expect_str_eq(leads_to("a:1", row("", 0, "")), "a:1");
}

Test(slot_rows, a_path_is_no_host)
{
	cr_expect_str_eq(leads_to("unix:/run/r", row("", 2, "10.0.0.2")), "10.0.0.2:2");
	cr_expect_str_eq(leads_to("unix:/run/r", row("", 2, "")), "127.0.0.1:2", "the same machine");
	cr_expect_str_eq(leads_to("unix:/run/r", row("", 0, "")), "unix:/run/r", "the asked node, at the asked place");
}

Test(slot_rows, one_that_leads_nowhere_is_dropped_and_named)
{
	cr_expect_str_eq(leads_to("a:1", row("no host", 2, "")), "");
	cr_expect_str_eq(odd, "slots 5-9 at no host:2");
	cr_expect_str_eq(leads_to("a:1", row("/run/r", 2, "")), "");
	cr_expect_str_eq(leads_to("unix:/run/r", row("b", 0, "")), "", "not at the asked place");
	struct redis_addr a = {.host = "a", .port = 1};
	struct slot_range rows[] = {row("x y", 1, ""), row("b", 2, ""), row("z z", 1, ""), row("c", 3, "")};
	cr_assert_eq(slot_rows_complete(rows, 4, &a, odd), 2);
	cr_expect_str_eq(rows[0].host, "b");
	cr_expect_str_eq(rows[1].host, "c");
	cr_expect_str_eq(odd, "slots 5-9 at x y:1");
}
