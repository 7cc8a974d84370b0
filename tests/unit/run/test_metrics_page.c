#include "run/metrics/page.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "run/daemon.h"

static struct daemon D;
static struct buf page;

static void up(void)
{
	alarm(20);
	static const struct coord_rules rules = {.max_sessions = 10, .max_frame_bytes = 1000, .node = "n1"};
	struct service_rules *r = mem_alloc(sizeof *r);
	atomic_init(&r->refs, 1);
	snprintf(r->name, sizeof r->name, "or\"ders\\x");
	r->lease.ttl_ms = 10000;
	D = (struct daemon){.core = coord_new(&rules)};
	struct effects out;
	effects_init(&out);
	struct coord_event ev = {.kind = COORD_SERVICES, .services = &r, .n = 1};
	coord_step(D.core, &ev, &out);
	effects_clear(&out);
	effects_fini(&out);
	buf_init(&page);
}

static void down(void)
{
	buf_fini(&page);
	coord_free(D.core);
}

static void expect(const char *line)
{
	metrics_page(&D, &page);
	cr_assert(strstr(page.data, line), "no %s in\n%s", line, page.data);
}

Test(metrics_page, every_name_of_the_contract_is_there, .init = up, .fini = down)
{
	static const char *const names[] = {"sluice_build_info", "sluice_streams_owned", "sluice_credits",
		"sluice_credits_in_use", "sluice_workers", "sluice_lbs_length", "sluice_lbs_pending",
		"sluice_unassigned_oldest_age_seconds", "sluice_owned_oldest_age_seconds", "sluice_dlq_length",
		"sluice_keyspace_subscriptions", "sluice_redis_connections", "sluice_relaxed_connections",
		"sluice_handoff_queue", "sluice_handoffs_active", "sluice_circuit_breaker_open",
		"sluice_entries_read_total", "sluice_assignments_total", "sluice_lease_acquire_total",
		"sluice_lease_renew_total", "sluice_lease_release_total", "sluice_leases_lost_total",
		"sluice_self_fence_total", "sluice_recovery_scans_total", "sluice_recovery_entries_total",
		"sluice_recovery_probes_total", "sluice_requeues_total", "sluice_dead_letters_total",
		"sluice_keyspace_events_total", "sluice_keyspace_setup_total", "sluice_topology_refresh_total",
		"sluice_maintenance_notifications_total", "sluice_handoffs_total", "sluice_redis_reconnects_total",
		"sluice_worker_errors_total", "sluice_worker_disconnects_total", "sluice_worker_revokes_total",
		"sluice_assign_latency_seconds", "sluice_assignment_duration_seconds",
		"sluice_lease_renew_duration_seconds", "sluice_lease_margin_seconds", "sluice_recovery_latency_seconds",
		"sluice_recovery_scan_duration_seconds", "sluice_redis_command_duration_seconds",
		"sluice_handoff_duration_seconds", "sluice_event_loop_lag_seconds", "sluice_ready", "sluice_paused",
		"sluice_draining", "sluice_config_reload_success", "sluice_clock_offset_seconds",
		"sluice_redis_refused_total", "process_cpu_seconds_total", "process_resident_memory_bytes",
		"process_virtual_memory_bytes", "process_open_fds", "process_max_fds", "process_start_time_seconds"};
	metrics_page(&D, &page);
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
		char type[96];
		snprintf(type, sizeof type, "# TYPE %s ", names[i]);
		const char *at = strstr(page.data, type);
		cr_expect(at, "%s is missing", names[i]);
		cr_expect(!at || !strstr(at + 1, type), "%s has two TYPE lines", names[i]);
	}
}

Test(metrics_page, labels_are_escaped, .init = up, .fini = down)
{
	expect("sluice_entries_read_total{service=\"or\\\"ders\\\\x\"} 0\n");
}

Test(metrics_page, coordinator_and_shards_are_added_up, .init = up, .fini = down)
{
	struct snapshot *s = mem_alloc(sizeof *s + sizeof s->services[0]);
	s->n_services = 1;
	s->services[0].m.c[M_ASSIGN_NEW] = 3;
	D.core->services.v[0].m.c[M_ASSIGN_NEW] = 4;
	D.shards.snapshots[0] = s;
	D.shards.n = 1;
	expect("sluice_assignments_total{service=\"or\\\"ders\\\\x\",kind=\"new\"} 7\n");
	mem_free(s);
	D.shards.snapshots[0] = NULL;
}

Test(metrics_text, buckets_are_cumulative)
{
	struct hist h = {0};
	struct buf b;
	buf_init(&b);
	hist_add(&h, 0.0001);
	hist_add(&h, 0.7);
	hist_add(&h, 100);
	metrics_hist(&b, "x", "redis", "a:1", "kind=\"k\"", &h);
	cr_expect(strstr(b.data, "x_bucket{redis=\"a:1\",kind=\"k\",le=\"0.5\"} 1\n"));
	cr_expect(strstr(b.data, "x_bucket{redis=\"a:1\",kind=\"k\",le=\"1\"} 2\n"));
	cr_expect(strstr(b.data, "x_bucket{redis=\"a:1\",kind=\"k\",le=\"+Inf\"} 3\n"));
	cr_expect(strstr(b.data, "x_count{redis=\"a:1\",kind=\"k\"} 3\n"));
	cr_expect(strstr(b.data, "x_sum{redis=\"a:1\",kind=\"k\"} 100.700100\n"));
	buf_fini(&b);
}
