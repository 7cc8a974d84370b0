#include "run/control/missing.h"

#include <string.h>

#include "base/mem.h"

enum { WHY_BYTES = 400, NAMES_BYTES = 200 }; /* control_end has room for both */

static void missing_add_server(struct missing *m, const char *addr, const char *why)
{
	for (size_t i = 0; i < m->n_servers; i++)
		if (strcmp(m->servers[i].why, why) == 0 ||
			(addr && m->servers[i].addr && strcmp(m->servers[i].addr, addr) == 0))
			return;
	m->servers = mem_grow(m->servers, m->n_servers + 1, sizeof *m->servers);
	m->servers[m->n_servers++] = (struct missing_server){
		.addr = addr ? mem_dup(addr, strlen(addr)) : NULL, .why = mem_dup(why, strlen(why))};
}

void missing_add(struct missing *m, const char *service, const char *addr, const char *why)
{
	missing_add_server(m, addr, why);
	for (size_t i = 0; i < m->n_services; i++)
		if (strcmp(m->services[i], service) == 0)
			return;
	m->services = mem_grow(m->services, m->n_services + 1, sizeof *m->services);
	m->services[m->n_services++] = mem_dup(service, strlen(service));
}

const char *missing_master(const struct missing *m, const struct daemon *d, const char *key, uint16_t slot,
	const char **addr, char words[static DOWN_WORDS_CAP])
{
	*addr = view_addr(d, slot);
	if (!*addr)
		return down_no_master(d, key, slot, words);
	for (size_t i = 0; i < m->n_servers; i++)
		if (m->servers[i].addr && strcmp(m->servers[i].addr, *addr) == 0)
			return m->servers[i].why;
	return NULL;
}

/* "orders, bills", or the first of them. */
static void missing_names(const struct missing *m, struct buf *out)
{
	for (size_t i = 0; i < m->n_services; i++) {
		if (out->len >= NAMES_BYTES) {
			buf_printf(out, " and %zu more", m->n_services - i);
			return;
		}
		buf_printf(out, "%s%.100s", i ? ", " : "", m->services[i]);
	}
}

void missing_end(struct control_req *q, const struct missing *m, size_t n_asked, const char *prefix)
{
	struct buf why, names;
	if (!m->n_services) {
		control_end(q, 0, NULL);
		return;
	}
	buf_init(&why);
	buf_init(&names);
	for (size_t i = 0; i < m->n_servers && why.len < WHY_BYTES / 2; i++)
		buf_printf(&why, "%s%s", i ? "; " : "", m->servers[i].why);
	missing_names(m, &names);
	if (m->n_services < n_asked)
		control_end(q, 1, "%s%.*s; missing: %s", prefix, WHY_BYTES, why.data, names.data);
	else
		control_end(q, 1, "%s%.*s", prefix, WHY_BYTES, why.data);
	buf_fini(&why);
	buf_fini(&names);
}

void missing_fini(struct missing *m)
{
	for (size_t i = 0; i < m->n_servers; i++) {
		mem_free(m->servers[i].addr);
		mem_free(m->servers[i].why);
	}
	for (size_t i = 0; i < m->n_services; i++)
		mem_free(m->services[i]);
	mem_free(m->servers);
	mem_free(m->services);
	*m = (struct missing){0};
}
