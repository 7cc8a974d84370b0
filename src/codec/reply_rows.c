/* reply_rows - answers that are tables: pending entries, consumers, the slot map. */
#include "codec/reply_p.h"

#include <stdio.h>

#include "base/mem.h"

bool reply_decode_pending(struct reply_decoder *d, const redisReply *r, struct reply *out)
{
	if (!reply_is_list(r))
		return false;
	if (r->elements > d->n_pending) {
		d->pending = mem_grow(d->pending, r->elements, sizeof *d->pending);
		d->n_pending = r->elements;
	}
	for (size_t i = 0; i < r->elements; i++) {
		const redisReply *row = r->element[i];
		struct pending_row *p = &d->pending[i];
		if (!reply_is_list(row) || row->elements < 4 || !reply_id_of(row->element[0], &p->id) ||
			!reply_is_text(row->element[1]) || !reply_is_int(row->element[2]) ||
			!reply_is_int(row->element[3]) || row->element[3]->integer < 0)
			return false;
		p->consumer = reply_slice_of(row->element[1]);
		p->idle_ms = row->element[2]->integer;
		p->deliveries = (uint64_t)row->element[3]->integer;
	}
	*out = (struct reply){.kind = REPLY_PENDING, .pending = d->pending, .n = r->elements};
	return true;
}

/* [last that was looked at or "", id, …] */
bool reply_decode_ghosts(struct reply_decoder *d, const redisReply *r, struct reply *out)
{
	if (!reply_is_list(r) || r->elements == 0 || !reply_is_text(r->element[0]))
		return false;
	struct entry_id last = {0, 0};
	if (r->element[0]->len > 0 && !reply_id_of(r->element[0], &last))
		return false;
	const size_t n = r->elements - 1;
	if (n > d->n_pending) {
		d->pending = mem_grow(d->pending, n, sizeof *d->pending);
		d->n_pending = n;
	}
	for (size_t i = 0; i < n; i++) {
		d->pending[i] = (struct pending_row){.consumer = {"", 0}};
		if (!reply_id_of(r->element[i + 1], &d->pending[i].id))
			return false;
	}
	*out = (struct reply){.kind = REPLY_PENDING, .pending = d->pending, .n = n, .id = last};
	return true;
}

/* Name-value pairs: a map, or in RESP2 a flat array. */
static bool decode_consumer(const redisReply *r, struct consumer_row *row)
{
	if (!reply_is_list(r) || r->elements % 2 != 0)
		return false;
	bool has_name = false, has_pending = false, has_idle = false;
	for (size_t i = 0; i + 1 < r->elements; i += 2) {
		const redisReply *key = r->element[i], *value = r->element[i + 1];
		if (reply_equals(key, "name") && reply_is_text(value)) {
			row->name = reply_slice_of(value);
			has_name = true;
		} else if (reply_equals(key, "pending") && reply_is_int(value) && value->integer >= 0) {
			row->n_pending = (uint64_t)value->integer;
			has_pending = true;
		} else if (reply_equals(key, "idle") && reply_is_int(value)) {
			row->idle_ms = value->integer;
			has_idle = true;
		}
	}
	return has_name && has_pending && has_idle;
}

bool reply_decode_consumers(struct reply_decoder *d, const redisReply *r, struct reply *out)
{
	if (!reply_is_list(r))
		return false;
	if (r->elements > d->n_consumers) {
		d->consumers = mem_grow(d->consumers, r->elements, sizeof *d->consumers);
		d->n_consumers = r->elements;
	}
	for (size_t i = 0; i < r->elements; i++)
		if (!decode_consumer(r->element[i], &d->consumers[i]))
			return false;
	*out = (struct reply){.kind = REPLY_CONSUMERS, .consumers = d->consumers, .n = r->elements};
	return true;
}

/* [consumer, ms ago, …] */
bool reply_decode_left(struct reply_decoder *d, const redisReply *r, struct reply *out)
{
	if (!reply_is_list(r) || r->elements % 2 != 0)
		return false;
	const size_t n = r->elements / 2;
	if (n > d->n_consumers) {
		d->consumers = mem_grow(d->consumers, n, sizeof *d->consumers);
		d->n_consumers = n;
	}
	for (size_t i = 0; i < n; i++) {
		const redisReply *name = r->element[2 * i], *ago = r->element[2 * i + 1];
		if (!reply_is_text(name) || !reply_is_int(ago) || ago->integer < 0)
			return false;
		d->consumers[i] = (struct consumer_row){.name = reply_slice_of(name), .idle_ms = ago->integer};
	}
	*out = (struct reply){.kind = REPLY_CONSUMERS, .consumers = d->consumers, .n = n};
	return true;
}

/* The address a node is known by without its preferred name: "ip" of its metadata. */
static struct slice metadata_ip(const redisReply *node)
{
	const redisReply *meta = node->elements > 3 ? node->element[3] : NULL;
	for (size_t i = 0; reply_is_list(meta) && i + 1 < meta->elements; i += 2)
		if (reply_equals(meta->element[i], "ip") && reply_is_text(meta->element[i + 1]))
			return reply_slice_of(meta->element[i + 1]);
	return (struct slice){NULL, 0};
}

static bool put_slot_text(char *out, size_t cap, struct slice text)
{
	if (text.len >= cap)
		return false;
	if (text.len)
		memcpy(out, text.p, text.len);
	out[text.len] = '\0';
	return true;
}

/* [from, to, [host, port, id, …] of the master, replicas …]. Host nil or "", port 0: those that were asked. "?" is
 * what a node without the preferred kind of name is called: it is known by its address, or not at all. */
static bool decode_slot_range(const redisReply *r, struct slot_range *s)
{
	*s = (struct slot_range){.from = 0};
	if (!reply_is_list(r) || r->elements < 3 || !reply_is_int(r->element[0]) || !reply_is_int(r->element[1]))
		return false;
	const long long from = r->element[0]->integer, to = r->element[1]->integer;
	const redisReply *node = r->element[2];
	if (from < 0 || to < from || to > 16383 || !reply_is_list(node) || node->elements < 2 ||
		!reply_is_int(node->element[1]))
		return false;
	const long long port = node->element[1]->integer;
	const redisReply *id = node->elements > 2 ? node->element[2] : NULL;
	struct slice ip = metadata_ip(node), none = {NULL, 0};
	struct slice host = reply_is_text(node->element[0]) ? reply_slice_of(node->element[0]) : none;
	if (reply_equals(node->element[0], "?"))
		host = ip;
	if (reply_equals(node->element[0], "?") && ip.len == 0)
		return false;
	s->from = (uint16_t)from;
	s->to = (uint16_t)to;
	s->port = (uint16_t)port;
	return port >= 0 && port <= 65535 && put_slot_text(s->host, sizeof s->host, host) &&
	       put_slot_text(s->alt, sizeof s->alt, ip) &&
	       put_slot_text(s->node_id, sizeof s->node_id, reply_is_text(id) ? reply_slice_of(id) : none);
}

/* What an odd row says of itself. */
static void name_odd_row(struct reply_decoder *d, const redisReply *r)
{
	const bool has_slots =
		reply_is_list(r) && r->elements > 2 && reply_is_int(r->element[0]) && reply_is_int(r->element[1]);
	const redisReply *node = has_slots ? r->element[2] : NULL;
	const bool has_node = reply_is_list(node) && node->elements > 1 && reply_is_text(node->element[0]) &&
			      reply_is_int(node->element[1]);
	int n = has_slots ? snprintf(d->odd_row, sizeof d->odd_row, "slots %lld-%lld", r->element[0]->integer,
				    r->element[1]->integer)
			  : snprintf(d->odd_row, sizeof d->odd_row, "a row of unknown shape");
	if (has_node)
		snprintf(d->odd_row + n, sizeof d->odd_row - (size_t)n, " at %.*s:%lld",
			(int)(node->element[0]->len < 80 ? node->element[0]->len : 80), node->element[0]->str,
			node->element[1]->integer);
}

/* One odd row does not spoil the others. */
bool reply_decode_slots(struct reply_decoder *d, const redisReply *r, struct reply *out)
{
	if (!reply_is_list(r))
		return false;
	if (r->elements > d->n_slots) {
		d->slots = mem_grow(d->slots, r->elements, sizeof *d->slots);
		d->n_slots = r->elements;
	}
	size_t n = 0, n_odd = 0;
	for (size_t i = 0; i < r->elements; i++) {
		if (decode_slot_range(r->element[i], &d->slots[n]))
			n++;
		else if (n_odd++ == 0)
			name_odd_row(d, r->element[i]);
	}
	*out = (struct reply){.kind = REPLY_SLOTS, .slots = d->slots, .n = n, .integer = (int64_t)n_odd};
	if (n_odd)
		out->text = (struct slice){d->odd_row, strlen(d->odd_row)};
	return true;
}
