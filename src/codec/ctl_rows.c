#include "codec/ctl_rows.h"

#include <string.h>

/* A row is a table of fields; the kind follows from the worker's C type, so table and struct cannot disagree. */
enum kind {
	KIND_TEXT,
	KIND_NUMBER,
	KIND_BOOL,
	KIND_TEXTS,
	KIND_JSON,
	KIND_STATE,
	KIND_OWNED,
	KIND_ROWS,
	KIND_EMBEDDED
};

struct ctl_field {
	const char *key; /* NULL ends a table */
	enum kind kind;
	size_t at;
	/* KIND_ROWS: array at `at`, its length at `at_n`, elements of `size`; KIND_EMBEDDED: sub's keys are ours */
	size_t at_n, size;
	const struct ctl_field *sub;
};

#define KIND_OF(type, worker)                                                                                          \
	_Generic(((type *)0)->worker, const char *: KIND_TEXT, int64_t: KIND_NUMBER, bool: KIND_BOOL,                  \
		struct ctl_texts: KIND_TEXTS, struct ctl_json: KIND_JSON, enum ctl_state: KIND_STATE,                  \
		struct ctl_owned: KIND_OWNED)
#define F(type, worker)                                                                                                \
	{                                                                                                              \
#worker, KIND_OF(struct type, worker), offsetof(struct type, worker), 0, 0, NULL                       \
	}
#define ROWS(type, worker, element, table)                                                                             \
	{                                                                                                              \
#worker, KIND_ROWS, offsetof(struct type, worker), offsetof(struct type, n_##worker),                  \
			sizeof(struct element), table                                                                  \
	}
#define EMBEDDED(type, worker, table)                                                                                  \
	{                                                                                                              \
#worker, KIND_EMBEDDED, offsetof(struct type, worker), 0, 0, table                                     \
	}
#define END                                                                                                            \
	{                                                                                                              \
		NULL, KIND_TEXT, 0, 0, 0, NULL                                                                         \
	}

static const struct ctl_field status_redis_fields[] = {F(ctl_status_redis, redis), F(ctl_status_redis, state),
	F(ctl_status_redis, slots), F(ctl_status_redis, breaker_open), F(ctl_status_redis, down_ms),
	F(ctl_status_redis, error), END};

static const struct ctl_field status_service_fields[] = {F(ctl_status_service, service), F(ctl_status_service, paused),
	F(ctl_status_service, owned), F(ctl_status_service, credits), F(ctl_status_service, credits_in_use),
	F(ctl_status_service, workers), F(ctl_status_service, lbs_length), F(ctl_status_service, lbs_pending),
	F(ctl_status_service, unassigned_oldest_age_ms), F(ctl_status_service, owned_oldest_age_ms),
	F(ctl_status_service, dlq_length), F(ctl_status_service, entries_dlq_length),
	F(ctl_status_service, streams_idle), END};

static const struct ctl_field status_fields[] = {F(ctl_status, ready), F(ctl_status, draining), F(ctl_status, reasons),
	F(ctl_status, node), F(ctl_status, version), F(ctl_status, pid), F(ctl_status, uptime_ms),
	F(ctl_status, workers), ROWS(ctl_status, redis, ctl_status_redis, status_redis_fields),
	ROWS(ctl_status, services, ctl_status_service, status_service_fields), END};

static const struct ctl_field stream_fields[] = {F(ctl_stream, service), F(ctl_stream, stream), F(ctl_stream, id),
	F(ctl_stream, lease), F(ctl_stream, state), F(ctl_stream, worker), F(ctl_stream, retry), F(ctl_stream, age_ms),
	F(ctl_stream, assigned_ms), F(ctl_stream, until_ms), F(ctl_stream, token), F(ctl_stream, note),
	F(ctl_stream, position), F(ctl_stream, tries), F(ctl_stream, lag), F(ctl_stream, unacked_ms), END};

static const struct ctl_field waiting_fields[] = {F(ctl_waiting, service), F(ctl_waiting, stream), F(ctl_waiting, id),
	F(ctl_waiting, state), F(ctl_waiting, retry), F(ctl_waiting, age_ms), F(ctl_waiting, reason),
	F(ctl_waiting, at_ms), F(ctl_waiting, due_ms), F(ctl_waiting, error), END};

static const struct ctl_field waiting_action_fields[] = {F(ctl_waiting_action, service), F(ctl_waiting_action, id),
	F(ctl_waiting_action, stream), F(ctl_waiting_action, result), F(ctl_waiting_action, new_id),
	F(ctl_waiting_action, error), END};

static const struct ctl_field fleet_fields[] = {F(ctl_fleet, service), F(ctl_fleet, consumer), F(ctl_fleet, node),
	F(ctl_fleet, state), F(ctl_fleet, owned), F(ctl_fleet, credits), F(ctl_fleet, workers), F(ctl_fleet, idle_ms),
	F(ctl_fleet, version), F(ctl_fleet, self), END};

static const struct ctl_field show_fields[] = {EMBEDDED(ctl_show, stream, stream_fields), F(ctl_show, session),
	F(ctl_show, lbs), F(ctl_show, lbs_redis), F(ctl_show, lock), F(ctl_show, lock_redis), F(ctl_show, lock_value),
	F(ctl_show, renewed_ms), F(ctl_show, lease_left_ms), F(ctl_show, progress_ms), F(ctl_show, dead_entries),
	F(ctl_show, dead_entry), F(ctl_show, info), END};

static const struct ctl_field explain_fields[] = {F(ctl_explain, service), F(ctl_explain, stream), F(ctl_explain, id),
	F(ctl_explain, state), F(ctl_explain, owner), F(ctl_explain, running), F(ctl_explain, because),
	F(ctl_explain, next), F(ctl_explain, advice), END};

static const struct ctl_field worker_fields[] = {F(ctl_worker, name), F(ctl_worker, session), F(ctl_worker, pid),
	F(ctl_worker, uid), F(ctl_worker, credits), F(ctl_worker, in_use), F(ctl_worker, services),
	F(ctl_worker, state), F(ctl_worker, connected_ms), F(ctl_worker, until_ms), END};

static const struct ctl_field connection_fields[] = {F(ctl_connection, role), F(ctl_connection, state),
	F(ctl_connection, handoff), F(ctl_connection, relaxed), F(ctl_connection, address), F(ctl_connection, peer),
	F(ctl_connection, error), END};

static const struct ctl_field node_fields[] = {F(ctl_node, redis), F(ctl_node, role), F(ctl_node, slots),
	F(ctl_node, state), ROWS(ctl_node, connections, ctl_connection, connection_fields), F(ctl_node, breaker),
	F(ctl_node, lag_ms), END};

static const struct ctl_field service_row_fields[] = {F(ctl_service_row, service), F(ctl_service_row, paused), END};

static const struct ctl_field drain_fields[] = {
	F(ctl_drain, draining), F(ctl_drain, owned), F(ctl_drain, workers), F(ctl_drain, elapsed_ms), END};

static const struct ctl_field stream_action_fields[] = {F(ctl_stream_action, service), F(ctl_stream_action, stream),
	F(ctl_stream_action, id), F(ctl_stream_action, result), F(ctl_stream_action, error), END};

static const struct ctl_field revoke_fields[] = {
	F(ctl_revoke, worker), F(ctl_revoke, session), F(ctl_revoke, streams), END};

static const struct ctl_field added_fields[] = {F(ctl_added, service), F(ctl_added, stream), F(ctl_added, id), END};

static const struct ctl_field scan_fields[] = {
	F(ctl_scan, service), F(ctl_scan, redis), F(ctl_scan, result), F(ctl_scan, error), END};

static const struct ctl_field topology_fields[] = {
	F(ctl_topology, redis), F(ctl_topology, role), F(ctl_topology, slots), F(ctl_topology, change), END};

static const struct ctl_field dlq_short_fields[] = {F(ctl_dlq_entry, service), F(ctl_dlq_entry, id),
	F(ctl_dlq_entry, stream), F(ctl_dlq_entry, reason), F(ctl_dlq_entry, at_ms), F(ctl_dlq_entry, age_ms),
	F(ctl_dlq_entry, node), F(ctl_dlq_entry, error), F(ctl_dlq_entry, orig_id), F(ctl_dlq_entry, retry), END};

static const struct ctl_field dlq_whole_fields[] = {F(ctl_dlq_entry, info), F(ctl_dlq_entry, fields), END};

static const struct ctl_field dlq_action_fields[] = {F(ctl_dlq_action, service), F(ctl_dlq_action, id),
	F(ctl_dlq_action, stream), F(ctl_dlq_action, result), F(ctl_dlq_action, new_id), F(ctl_dlq_action, error),
	F(ctl_dlq_action, due_ms), END};

static const struct ctl_field entries_dlq_short_fields[] = {F(ctl_entries_dlq_entry, service),
	F(ctl_entries_dlq_entry, id), F(ctl_entries_dlq_entry, stream), F(ctl_entries_dlq_entry, reason),
	F(ctl_entries_dlq_entry, at_ms), F(ctl_entries_dlq_entry, age_ms), F(ctl_entries_dlq_entry, node),
	F(ctl_entries_dlq_entry, error), F(ctl_entries_dlq_entry, orig_id), F(ctl_entries_dlq_entry, tries), END};

static const struct ctl_field entries_dlq_whole_fields[] = {F(ctl_entries_dlq_entry, fields), END};

static const struct ctl_field reload_fields[] = {F(ctl_reload, setting), F(ctl_reload, result), F(ctl_reload, from),
	F(ctl_reload, to), F(ctl_reload, problem), END};

static const struct ctl_field doctor_fields[] = {F(ctl_doctor, check), F(ctl_doctor, redis), F(ctl_doctor, result),
	F(ctl_doctor, found), F(ctl_doctor, advice), END};

static const struct ctl_field metrics_fields[] = {F(ctl_metrics, text), END};

static const struct ctl_field event_fields[] = {F(ctl_event, at_ms), F(ctl_event, level), F(ctl_event, text), END};

static const struct ctl_field version_fields[] = {F(ctl_version, version), F(ctl_version, node), F(ctl_version, pid),
	F(ctl_version, control), F(ctl_version, worker), END};

static void put_object(struct buf *b, const struct ctl_field *f, const void *row);

static void put_text(struct buf *b, const char *s)
{
	if (s)
		buf_json_str(b, s, strlen(s));
	else
		buf_str(b, "null");
}

static void put_number(struct buf *b, int64_t v)
{
	if (v < 0)
		buf_str(b, "null");
	else
		buf_u64(b, (uint64_t)v);
}

static void put_texts(struct buf *b, const struct ctl_texts *list)
{
	buf_str(b, "[");
	for (size_t i = 0; i < list->n; i++) {
		if (i)
			buf_str(b, ",");
		put_text(b, list->v[i]);
	}
	buf_str(b, "]");
}

static void put_owned(struct buf *b, const struct ctl_owned *owned)
{
	for (unsigned i = 0; i < CTL_STATE_N; i++) {
		buf_str(b, i ? "," : "{");
		put_text(b, ctl_state_name((enum ctl_state)i));
		buf_str(b, ":");
		put_number(b, owned->n[i]);
	}
	buf_str(b, "}");
}

static void put_rows(struct buf *b, const struct ctl_field *f, const char *row)
{
	const char *first;
	size_t n;
	memcpy(&first, row + f->at, sizeof(first));
	memcpy(&n, row + f->at_n, sizeof(n));
	buf_str(b, "[");
	for (size_t i = 0; i < n; i++) {
		if (i)
			buf_str(b, ",");
		put_object(b, f->sub, first + i * f->size);
	}
	buf_str(b, "]");
}

static void ctl_rows_put_value(struct buf *b, const struct ctl_field *f, const char *row)
{
	const void *p = row + f->at;
	switch (f->kind) {
	case KIND_TEXT:
		put_text(b, *(const char *const *)p);
		break;
	case KIND_NUMBER:
		put_number(b, *(const int64_t *)p);
		break;
	case KIND_BOOL:
		buf_str(b, *(const bool *)p ? "true" : "false");
		break;
	case KIND_TEXTS:
		put_texts(b, p);
		break;
	case KIND_JSON: {
		const struct ctl_json *json = p;
		buf_str(b, json->text ? json->text : "null");
		break;
	}
	case KIND_STATE:
		put_text(b, ctl_state_name(*(const enum ctl_state *)p));
		break;
	case KIND_OWNED:
		put_owned(b, p);
		break;
	case KIND_ROWS:
		put_rows(b, f, row);
		break;
	case KIND_EMBEDDED:
		break; /* ctl_rows_put_fields goes into it */
	}
}

static void ctl_rows_put_fields(struct buf *b, const struct ctl_field *f, const char *row, bool *is_first)
{
	for (; f->key; f++) {
		if (f->kind == KIND_EMBEDDED) { /* one level: a table of plain fields */
			ctl_rows_put_fields(b, f->sub, row + f->at, is_first);
			continue;
		}
		if (!*is_first)
			buf_str(b, ",");
		*is_first = false;
		buf_str(b, "\"");
		buf_str(b, f->key);
		buf_str(b, "\":");
		ctl_rows_put_value(b, f, row);
	}
}

static void put_object(struct buf *b, const struct ctl_field *f, const void *row)
{
	bool is_first = true;
	buf_str(b, "{");
	ctl_rows_put_fields(b, f, row, &is_first);
	buf_str(b, "}");
}

static void ctl_rows_put_row(struct buf *b, const struct ctl_field *f, const void *row)
{
	put_object(b, f, row);
	buf_str(b, "\n");
}

void ctl_encode_status(struct buf *b, const struct ctl_status *row)
{
	ctl_rows_put_row(b, status_fields, row);
}

void ctl_encode_stream(struct buf *b, const struct ctl_stream *row)
{
	ctl_rows_put_row(b, stream_fields, row);
}

void ctl_encode_waiting(struct buf *b, const struct ctl_waiting *row)
{
	ctl_rows_put_row(b, waiting_fields, row);
}

void ctl_encode_waiting_action(struct buf *b, const struct ctl_waiting_action *row)
{
	ctl_rows_put_row(b, waiting_action_fields, row);
}

void ctl_encode_fleet(struct buf *b, const struct ctl_fleet *row)
{
	ctl_rows_put_row(b, fleet_fields, row);
}

void ctl_encode_show(struct buf *b, const struct ctl_show *row)
{
	ctl_rows_put_row(b, show_fields, row);
}

void ctl_encode_explain(struct buf *b, const struct ctl_explain *row)
{
	ctl_rows_put_row(b, explain_fields, row);
}

void ctl_encode_worker(struct buf *b, const struct ctl_worker *row)
{
	ctl_rows_put_row(b, worker_fields, row);
}

void ctl_encode_node(struct buf *b, const struct ctl_node *row)
{
	ctl_rows_put_row(b, node_fields, row);
}

void ctl_encode_service_row(struct buf *b, const struct ctl_service_row *row)
{
	ctl_rows_put_row(b, service_row_fields, row);
}

void ctl_encode_drain(struct buf *b, const struct ctl_drain *row)
{
	ctl_rows_put_row(b, drain_fields, row);
}

void ctl_encode_stream_action(struct buf *b, const struct ctl_stream_action *row)
{
	ctl_rows_put_row(b, stream_action_fields, row);
}

void ctl_encode_revoke(struct buf *b, const struct ctl_revoke *row)
{
	ctl_rows_put_row(b, revoke_fields, row);
}

void ctl_encode_added(struct buf *b, const struct ctl_added *row)
{
	ctl_rows_put_row(b, added_fields, row);
}

void ctl_encode_scan(struct buf *b, const struct ctl_scan *row)
{
	ctl_rows_put_row(b, scan_fields, row);
}

void ctl_encode_topology(struct buf *b, const struct ctl_topology *row)
{
	ctl_rows_put_row(b, topology_fields, row);
}

void ctl_encode_dlq_short(struct buf *b, const struct ctl_dlq_entry *row)
{
	ctl_rows_put_row(b, dlq_short_fields, row);
}

static void put_both(struct buf *b, const struct ctl_field *first, const struct ctl_field *second, const void *row)
{
	bool is_first = true;
	buf_str(b, "{");
	ctl_rows_put_fields(b, first, row, &is_first);
	ctl_rows_put_fields(b, second, row, &is_first);
	buf_str(b, "}\n");
}

void ctl_encode_dlq_entry(struct buf *b, const struct ctl_dlq_entry *row)
{
	put_both(b, dlq_short_fields, dlq_whole_fields, row);
}

void ctl_encode_entries_dlq_short(struct buf *b, const struct ctl_entries_dlq_entry *row)
{
	ctl_rows_put_row(b, entries_dlq_short_fields, row);
}

void ctl_encode_entries_dlq_entry(struct buf *b, const struct ctl_entries_dlq_entry *row)
{
	put_both(b, entries_dlq_short_fields, entries_dlq_whole_fields, row);
}

void ctl_encode_dlq_action(struct buf *b, const struct ctl_dlq_action *row)
{
	ctl_rows_put_row(b, dlq_action_fields, row);
}

void ctl_encode_reload(struct buf *b, const struct ctl_reload *row)
{
	ctl_rows_put_row(b, reload_fields, row);
}

void ctl_encode_doctor(struct buf *b, const struct ctl_doctor *row)
{
	ctl_rows_put_row(b, doctor_fields, row);
}

void ctl_encode_metrics(struct buf *b, const struct ctl_metrics *row)
{
	ctl_rows_put_row(b, metrics_fields, row);
}

void ctl_encode_event(struct buf *b, const struct ctl_event *row)
{
	ctl_rows_put_row(b, event_fields, row);
}

void ctl_encode_version(struct buf *b, const struct ctl_version *row)
{
	ctl_rows_put_row(b, version_fields, row);
}
