#include "base/mem.h"

#include <criterion/criterion.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

static void up(void)
{
	alarm(20);
}

Test(mem, new_memory_is_zero, .init = up)
{
	char *dirty = mem_alloc(300);
	memset(dirty, 'x', 300);
	mem_free(dirty);
	char *p = mem_array(3, 100);
	for (int i = 0; i < 300; i++)
		cr_assert_eq(p[i], 0);
	mem_free(p);
	mem_free(mem_alloc(0));
	mem_free(NULL);
}

Test(mem, grow_keeps_what_was_there, .init = up)
{
	char *p = mem_grow(NULL, 2, 1);
	memcpy(p, "ab", 2);
	p = mem_grow(p, 1000, 4);
	cr_assert(memcmp(p, "ab", 2) == 0);
	mem_free(p);
}

Test(mem, dup_closes_with_nul, .init = up)
{
	char *p = mem_dup("a\0bc", 3);
	cr_assert(memcmp(p, "a\0b", 4) == 0);
	mem_free(p);
	p = mem_dup(NULL, 0);
	cr_assert_str_eq(p, "");
	mem_free(p);
}

Test(mem, printf_makes_a_string, .init = up)
{
	char *p = mem_printf("%s-%d", "orders", 7);
	cr_assert_str_eq(p, "orders-7");
	mem_free(p);
}

Test(mem, wipe_clears, .init = up)
{
	char secret[] = "secret";
	mem_wipe(secret, sizeof(secret));
	cr_assert(memcmp(secret, "\0\0\0\0\0\0", sizeof(secret)) == 0);
	mem_wipe(NULL, 0);
}

Test(mem, product_that_overflows_ends_the_process, .init = up, .exit_code = 71)
{
	volatile size_t quarter = SIZE_MAX / 4 + 2;
	mem_array(quarter, 4); /* would be 4 bytes */
}

Test(mem, impossible_size_ends_the_process, .init = up, .exit_code = 71)
{
	volatile size_t huge = SIZE_MAX;
	mem_grow(NULL, huge, 1);
}
