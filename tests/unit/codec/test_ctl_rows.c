/* The rows of control replies: stable keys, null for what is unknown, valid JSON whatever the names are. */
#include "codec/ctl_rows.h"

#include <criterion/criterion.h>
#include <string.h>
#include <unistd.h>
#include <yyjson.h>

static struct buf B;

static void up(void)
{
	alarm(20);
	buf_init(&B);
}

static void down(void)
{
	buf_fini(&B);
}

Test(ctl_rows, a_stream_has_every_key_also_when_nothing_is_known, .init = up, .fini = down)
{
	ctl_encode_stream(&B, &(struct ctl_stream){.service = "orders",
				      .stream = "o:7",
				      .id = "17-0",
				      .state = CTL_STATE_READY,
				      .retry = 2,
				      .age_ms = 1500,
				      .assigned_ms = -1,
				      .until_ms = -1,
				      .tries = -1,
				      .lag = -1,
				      .unacked_ms = -1});
	cr_expect_str_eq(B.data,
		"{\"service\":\"orders\",\"stream\":\"o:7\",\"id\":\"17-0\",\"lease\":null,\"state\":\"ready\","
		"\"worker\":null,"
		"\"retry\":2,\"age_ms\":1500,\"assigned_ms\":null,\"until_ms\":null,\"token\":null,\"note\":null,"
		"\"position\":null,\"tries\":null,\"lag\":null,\"unacked_ms\":null}\n");
}

Test(ctl_rows, status_is_one_object_with_lists_inside, .init = up, .fini = down)
{
	const char *reasons[] = {"no master for slots 0-5460", "draining"};
	struct ctl_status_redis redis[] = {{.redis = "10.0.0.1:6379", .state = "connected", .down_ms = -1},
		{.redis = "10.0.0.2:6379", .state = "down", .down_ms = 4000, .breaker_open = true, .error = "refused"}};
	struct ctl_status_service service = {.service = "orders", .credits = 8, .credits_in_use = 3, .dlq_length = -1};
	service.owned.n[CTL_STATE_ASSIGNED] = 3;
	struct ctl_status s = {.draining = true,
		.reasons = {reasons, 2},
		.node = "n1",
		.version = "0.1.0",
		.pid = 7,
		.uptime_ms = 12,
		.redis = redis,
		.n_redis = 2,
		.services = &service,
		.n_services = 1};
	ctl_encode_status(&B, &s);
	yyjson_doc *doc = yyjson_read(B.data, B.len, 0);
	yyjson_val *root = yyjson_doc_get_root(doc);
	cr_assert_not_null(root);
	cr_expect_str_eq(yyjson_get_str(yyjson_ptr_get(root, "/reasons/1")), "draining");
	cr_expect(yyjson_is_false(yyjson_ptr_get(root, "/ready")));
	cr_expect(yyjson_is_null(yyjson_ptr_get(root, "/redis/0/down_ms")));
	cr_expect_eq(yyjson_get_int(yyjson_ptr_get(root, "/redis/1/down_ms")), 4000);
	cr_expect_str_eq(yyjson_get_str(yyjson_ptr_get(root, "/redis/1/error")), "refused");
	cr_expect_eq(yyjson_get_int(yyjson_ptr_get(root, "/services/0/owned/assigned")), 3);
	cr_expect_eq(yyjson_obj_size(yyjson_ptr_get(root, "/services/0/owned")), CTL_STATE_N);
	cr_expect(yyjson_is_null(yyjson_ptr_get(root, "/services/0/dlq_length")));
	yyjson_doc_free(doc);
}

Test(ctl_rows, show_is_a_stream_and_more_in_one_object, .init = up, .fini = down)
{
	ctl_encode_show(
		&B, &(struct ctl_show){.stream = {.stream = "o:7", .state = CTL_STATE_ASSIGNED, .note = "half\nway"},
			    .lock = "o:7<MUTEX_KEY_SEP>17-0",
			    .info = {"{\"big\":12345678901234567890}"}});
	cr_expect_not_null(strstr(B.data,
		"\"note\":\"half\\nway\",\"position\":null,\"tries\":0,\"lag\":0,\"unacked_ms\":0,\"session\":null,"));
	cr_expect_not_null(strstr(B.data, "\"info\":{\"big\":12345678901234567890}}\n"));
}

Test(ctl_rows, a_dead_letter_is_short_in_lists_and_whole_in_show, .init = up, .fini = down)
{
	struct ctl_dlq_entry e = {.service = "s",
		.id = "9-0",
		.reason = "unparseable",
		.at_ms = 5,
		.retry = -1,
		.fields = {"{\"x\":\"y\"}"}};
	ctl_encode_dlq_short(&B, &e);
	cr_expect_null(strstr(B.data, "fields"));
	cr_expect_not_null(strstr(B.data, "\"stream\":null"));
	buf_clear(&B);
	ctl_encode_dlq_entry(&B, &e);
	cr_expect_not_null(strstr(B.data, "\"info\":null,\"fields\":{\"x\":\"y\"}}\n"));
}

Test(ctl_rows, every_row_is_one_json_object_on_one_line, .init = up, .fini = down)
{
	struct ctl_connection link = {.role = "reader", .state = "ready", .handoff = "idle", .relaxed = true};
	const char *nasty = "a\"\n\x1b[2J\xff\xc3";
	ctl_encode_explain(&B, &(struct ctl_explain){.stream = nasty, .because = {&nasty, 1}});
	ctl_encode_worker(&B, &(struct ctl_worker){.name = nasty, .services = {&nasty, 1}});
	ctl_encode_node(&B, &(struct ctl_node){.redis = nasty, .connections = &link, .n_connections = 1});
	ctl_encode_service_row(&B, &(struct ctl_service_row){.service = nasty});
	ctl_encode_drain(&B, &(struct ctl_drain){.owned = 3, .elapsed_ms = INT64_MAX});
	ctl_encode_stream_action(&B, &(struct ctl_stream_action){.stream = nasty});
	ctl_encode_revoke(&B, &(struct ctl_revoke){.worker = nasty});
	ctl_encode_added(&B, &(struct ctl_added){.stream = nasty});
	ctl_encode_scan(&B, &(struct ctl_scan){.service = nasty});
	ctl_encode_topology(&B, &(struct ctl_topology){.redis = nasty});
	ctl_encode_dlq_action(&B, &(struct ctl_dlq_action){.stream = nasty});
	ctl_encode_reload(&B, &(struct ctl_reload){.problem = nasty});
	ctl_encode_doctor(&B, &(struct ctl_doctor){.found = nasty});
	ctl_encode_metrics(&B, &(struct ctl_metrics){.text = "a 1\nb 2\n"});
	ctl_encode_event(&B, &(struct ctl_event){.text = nasty});
	ctl_encode_version(&B, &(struct ctl_version){.version = nasty});
	size_t n = 0;
	for (char *line = B.data; *line; n++) {
		char *lf = strchr(line, '\n');
		yyjson_doc *doc = yyjson_read(line, (size_t)(lf - line), 0);
		cr_expect(yyjson_is_obj(yyjson_doc_get_root(doc)), "%.*s", (int)(lf - line), line);
		yyjson_doc_free(doc);
		line = lf + 1;
	}
	cr_expect_eq(n, 16);
}
