#include "base/list.h"

#include <criterion/criterion.h>
#include <unistd.h>

struct item {
	int value;
	struct link link;
};

static void up(void)
{
	alarm(20);
}

Test(list, first_in_first_out, .init = up)
{
	struct link head;
	struct item items[3] = {{.value = 1}, {.value = 2}, {.value = 3}};
	list_init(&head);
	cr_assert(list_empty(&head));
	list_push(&head, &items[1].link);
	list_push(&head, &items[2].link);
	list_push_front(&head, &items[0].link);
	for (int want = 1; want <= 3; want++)
		cr_assert_eq(LIST_OF(struct item, link, list_pop(&head))->value, want);
	cr_assert_null(list_pop(&head));
}

Test(list, remove_twice_is_harmless, .init = up)
{
	struct link head;
	struct item items[2] = {0};
	list_init(&head);
	list_push(&head, &items[0].link);
	list_push(&head, &items[1].link);
	list_remove(&items[0].link);
	list_remove(&items[0].link);
	cr_assert_eq(list_pop(&head), &items[1].link);
	cr_assert(list_empty(&head));
}
