/* One copy of each secret, in pages that core files leave out. */
#include "base/secret.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"

Test(secret, the_same_bytes_are_kept_once)
{
	char text[] = "s3cret";
	const char *a = secret_keep(text, 6);
	const char *b = secret_keep("s3cret and more", 6);
	const char *other = secret_keep("s3cres", 6), *longer = secret_keep("s3cret!", 7), *none = secret_keep("", 0);
	memset(text, 'x', 6);
	cr_expect_str_eq(a, "s3cret");
	cr_expect_eq(a, b);
	cr_expect_neq(a, other);
	cr_expect_neq(a, longer);
	cr_expect_str_empty(none);
	secret_drop(a);
	cr_expect_str_eq(b, "s3cret", "the other holder's");
	secret_drop(other);
	secret_drop(b);
	const char *again = secret_keep("s3cret", 6);
	cr_expect_str_eq(again, "s3cret");
	secret_drop(again);
	secret_drop(longer);
	secret_drop(none);
	secret_drop(NULL);
}

/* True when the mapping with this address is left out of core files ("dd" of VmFlags). */
static bool is_left_out(const void *address)
{
	FILE *f = fopen("/proc/self/smaps", "r");
	cr_assert(f);
	char line[512];
	bool is_here = false, found = false;
	while (fgets(line, sizeof line, f)) {
		unsigned long from, to;
		if (sscanf(line, "%lx-%lx ", &from, &to) == 2)
			is_here = (unsigned long)address >= from && (unsigned long)address < to;
		else if (is_here && strncmp(line, "VmFlags:", 8) == 0)
			found = strstr(line, " dd") != NULL;
	}
	fclose(f);
	return found;
}

Test(secret, core_files_leave_it_out)
{
	static char large[70000];
	memset(large, 'p', sizeof large);
	const char *s = secret_keep(large, sizeof large);
	cr_expect(is_left_out(s) && is_left_out(s + sizeof large));
	cr_expect(!is_left_out(large));
	secret_drop(s);
}

Test(secret, reserving_moves_what_is_there)
{
	struct buf b;
	buf_init(&b);
	buf_reserve_wiping(&b, 100);
	const char *first = b.data;
	buf_add(&b, "abc", 3);
	cr_expect_eq(b.data, first);
	buf_reserve_wiping(&b, 50);
	cr_expect_eq(b.data, first, "there is room");
	buf_reserve_wiping(&b, 100000);
	cr_expect_str_eq(b.data, "abc");
	cr_expect_geq(b.cap, 100003);
	buf_fini(&b);
}
