/* diff - what a reload changes: settings with their old and new values. */
#include "config/config.h"
#include <string.h>
#include "base/mem.h"
#include "config/options.h"
#include "config/value.h"

struct changes {
	struct config_change *items;
	size_t n, cap;
};

/* Takes all three texts over. */
static void diff_add(struct changes *list, char *path, char *before, char *after, bool needs_restart)
{
	if (list->n == list->cap) {
		list->cap = list->cap ? list->cap * 2 : 16;
		list->items = mem_grow(list->items, list->cap, sizeof *list->items);
	}
	list->items[list->n++] =
		(struct config_change){.path = path, .before = before, .after = after, .needs_restart = needs_restart};
}

static char *text_of(const struct option *o, const void *base)
{
	struct buf b;
	buf_init(&b);
	value_format(o, base, &b);
	return buf_take(&b);
}

/* service: its name, or NULL for a row that is there once. */
static void compare(struct changes *list, const struct option *o, const void *a, const void *b, const char *service)
{
	char *before = text_of(o, a), *after = text_of(o, b);
	if (strcmp(before, after) == 0) {
		mem_free(before);
		mem_free(after);
		return;
	}
	char *path = service ? mem_printf("services[%s]%s", service, o->path + strlen("services[]"))
			     : mem_dup(o->path, strlen(o->path));
	diff_add(list, path, before, after, o->class == OPTION_RESTART);
}

static const struct config_service *diff_find(const struct config *c, const char *name)
{
	for (size_t i = 0; i < c->n_services; i++) {
		if (strcmp(c->services[i].name, name) == 0)
			return &c->services[i];
	}
	return NULL;
}

static void compare_service(struct changes *list, const struct config_service *a, const struct config_service *b)
{
	for (enum option_id id = OPT_SERVICE_NAME; option_is_service(id); id++)
		compare(list, &options[id], a, b, a->name);
}

static void compare_services(struct changes *list, const struct config *before, const struct config *after)
{
	for (size_t i = 0; i < before->n_services; i++) {
		const struct config_service *a = &before->services[i], *b = diff_find(after, a->name);
		if (b)
			compare_service(list, a, b);
		else
			diff_add(list, mem_printf("services[%s]", a->name), mem_dup(a->name, strlen(a->name)), NULL,
				false);
	}
	for (size_t i = 0; i < after->n_services; i++) {
		const struct config_service *b = &after->services[i];
		if (!diff_find(before, b->name))
			diff_add(list, mem_printf("services[%s]", b->name), NULL, mem_dup(b->name, strlen(b->name)),
				false);
	}
}

size_t config_diff(const struct config *before, const struct config *after, struct config_change **list)
{
	struct changes found = {0};
	for (enum option_id id = 0; id < N_OPTIONS; id++) {
		if (!option_is_service(id))
			compare(&found, &options[id], before, after, NULL);
		else if (id == OPT_SERVICE_NAME)
			compare_services(&found, before, after);
	}
	*list = found.items;
	return found.n;
}

void config_changes_free(struct config_change *list, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		mem_free(list[i].path);
		mem_free(list[i].before);
		mem_free(list[i].after);
	}
	mem_free(list);
}
