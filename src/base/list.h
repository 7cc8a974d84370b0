/* list - intrusive doubly linked list. A head is a link that points to itself when empty.
 * Not thread-safe. A link is in one list at most; list_remove leaves it pointing to itself. */
#pragma once
#include <stdint.h>
#include <stdbool.h>
#include <stddef.h>

struct link {
	struct link *next, *prev;
};

#define LIST_OF(type, worker, l) ((type *)((char *)(l)-offsetof(type, worker)))

static inline void list_init(struct link *l)
{
	l->next = l->prev = l;
}

static inline bool list_empty(const struct link *l)
{
	return l->next == l;
}

static inline void list_push(struct link *head, struct link *l) /* at the end */
{
	l->prev = head->prev;
	l->next = head;
	head->prev->next = l;
	head->prev = l;
}

static inline void list_push_front(struct link *head, struct link *l)
{
	list_push(head->next, l);
}

static inline void list_remove(struct link *l)
{
	l->prev->next = l->next;
	l->next->prev = l->prev;
	list_init(l);
}

static inline uint32_t list_length(const struct link *head) /* walks through it */
{
	uint32_t n = 0;
	for (const struct link *l = head->next; l != head; l = l->next)
		n++;
	return n;
}

static inline struct link *list_pop(struct link *head) /* the first, or NULL */
{
	struct link *l = head->next;
	if (l == head)
		return NULL;
	list_remove(l);
	return l;
}
