/* metric - every counter and histogram of sluice-metrics(7) in one table. Counters live in the state of the step that
 * counts (struct metrics_service, …) and are copied out by value in snapshots; no thread shares it.
 * Data only.
 * X(enumerator, "name", "label=\"value\"", "help") - rows of one name stand together; scope service or process. */
#pragma once
#include "base/hist.h"
#include <stdint.h>

#define METRIC_SERVICE_COUNTERS(X)                                                                                     \
	X(M_ENTRIES_READ, "sluice_entries_read_total", "", "Entries read from the load-balancer stream")               \
	X(M_ASSIGN_NEW, "sluice_assignments_total", "kind=\"new\"", "Streams assigned to workers")                     \
	X(M_ASSIGN_RECOVERED, "sluice_assignments_total", "kind=\"recovered\"", "")                                    \
	X(M_ASSIGN_RESUMED, "sluice_assignments_total", "kind=\"resumed\"", "")                                        \
	X(M_ACQUIRE_OK, "sluice_lease_acquire_total", "result=\"ok\"", "Locks asked for")                              \
	X(M_ACQUIRE_BUSY, "sluice_lease_acquire_total", "result=\"busy\"", "")                                         \
	X(M_ACQUIRE_TAKEN_OVER, "sluice_lease_acquire_total", "result=\"taken_over\"", "")                             \
	X(M_ACQUIRE_ERROR, "sluice_lease_acquire_total", "result=\"error\"", "")                                       \
	X(M_RENEW_OK, "sluice_lease_renew_total", "result=\"ok\"", "Lock renewals")                                    \
	X(M_RENEW_MISSING, "sluice_lease_renew_total", "result=\"missing\"", "")                                       \
	X(M_RENEW_TAKEN, "sluice_lease_renew_total", "result=\"taken\"", "")                                           \
	X(M_RENEW_ERROR, "sluice_lease_renew_total", "result=\"error\"", "")                                           \
	X(M_RELEASE_OK, "sluice_lease_release_total", "result=\"ok\"", "Locks deleted")                                \
	X(M_RELEASE_NOT_OURS, "sluice_lease_release_total", "result=\"not_ours\"", "")                                 \
	X(M_RELEASE_ERROR, "sluice_lease_release_total", "result=\"error\"", "")                                       \
	X(M_LOST_EXPIRED, "sluice_leases_lost_total", "reason=\"expired\"", "Leases lost while a worker had them")     \
	X(M_LOST_TAKEN, "sluice_leases_lost_total", "reason=\"taken\"", "")                                            \
	X(M_LOST_MISSING, "sluice_leases_lost_total", "reason=\"missing\"", "")                                        \
	X(M_LOST_NOT_PENDING, "sluice_leases_lost_total", "reason=\"not_pending\"", "")                                \
	X(M_LOST_REPLACED, "sluice_leases_lost_total", "reason=\"replaced\"", "")                                      \
	X(M_LOST_TRIMMED, "sluice_leases_lost_total", "reason=\"trimmed\"", "")                                        \
	X(M_FENCE_STOPPED, "sluice_self_fence_total", "result=\"stopped\"", "Work stopped at the local deadline")      \
	X(M_FENCE_LATE, "sluice_self_fence_total", "result=\"late\"", "")                                              \
	X(M_SCAN_FULL_OK, "sluice_recovery_scans_total", "phase=\"scan\",result=\"ok\"", "Reconciliation passes")      \
	X(M_SCAN_FULL_ERROR, "sluice_recovery_scans_total", "phase=\"scan\",result=\"error\"", "")                     \
	X(M_SCAN_START_OK, "sluice_recovery_scans_total", "phase=\"start\",result=\"ok\"", "")                         \
	X(M_SCAN_START_ERROR, "sluice_recovery_scans_total", "phase=\"start\",result=\"error\"", "")                   \
	X(M_REC_REQUEUED, "sluice_recovery_entries_total", "result=\"requeued\"", "Strangers' entries looked at")      \
	X(M_REC_ALIVE, "sluice_recovery_entries_total", "result=\"alive\"", "")                                        \
	X(M_REC_DEAD, "sluice_recovery_entries_total", "result=\"dead_letter\"", "")                                   \
	X(M_REC_GONE, "sluice_recovery_entries_total", "result=\"gone\"", "")                                          \
	X(M_REC_LOST_RACE, "sluice_recovery_entries_total", "result=\"lost_race\"", "")                                \
	X(M_REC_ERROR, "sluice_recovery_entries_total", "result=\"error\"", "")                                        \
	X(M_PROBE_ALIVE, "sluice_recovery_probes_total", "result=\"alive\"", "Locks read after their deadline")        \
	X(M_PROBE_MISSING, "sluice_recovery_probes_total", "result=\"missing\"", "")                                   \
	X(M_PROBE_ERROR, "sluice_recovery_probes_total", "result=\"error\"", "")                                       \
	X(M_REQUEUE_FAIL, "sluice_requeues_total", "reason=\"fail\"", "Entries given back to the stream")              \
	X(M_REQUEUE_RELEASE, "sluice_requeues_total", "reason=\"release\"", "")                                        \
	X(M_REQUEUE_WORKER_DIED, "sluice_requeues_total", "reason=\"worker_died\"", "")                                \
	X(M_REQUEUE_OWNER_DIED, "sluice_requeues_total", "reason=\"owner_died\"", "")                                  \
	X(M_REQUEUE_BYE, "sluice_requeues_total", "reason=\"bye\"", "")                                                \
	X(M_REQUEUE_DRAIN, "sluice_requeues_total", "reason=\"drain\"", "")                                            \
	X(M_REQUEUE_LOST, "sluice_requeues_total", "reason=\"lost\"", "")                                              \
	X(M_REQUEUE_OPERATOR, "sluice_requeues_total", "reason=\"operator\"", "")                                      \
	X(M_REQUEUE_TIMEOUT, "sluice_requeues_total", "reason=\"timeout\"", "")                                        \
	X(M_REQUEUE_UNRESUMED, "sluice_requeues_total", "reason=\"unresumed\"", "")                                    \
	X(M_REQUEUE_NO_CREDIT, "sluice_requeues_total", "reason=\"no_credit\"", "")                                    \
	X(M_REQUEUE_OWNER_LEFT, "sluice_requeues_total", "reason=\"owner_left\"", "")                                  \
	X(M_REQUEUE_GHOST, "sluice_requeues_total", "reason=\"ghost\"", "")                                            \
	X(M_DELAYED_FAIL, "sluice_retries_delayed_total", "reason=\"fail\"", "Entries given back for a later time")    \
	X(M_DELAYED_RELEASE, "sluice_retries_delayed_total", "reason=\"release\"", "")                                 \
	X(M_DELAYED_DEATH, "sluice_retries_delayed_total", "reason=\"death\"", "")                                     \
	X(M_DELAYED_LOST, "sluice_retries_delayed_total", "reason=\"lost\"", "")                                       \
	X(M_MERGED, "sluice_entries_merged_total", "", "Entries merged into a later one of their stream")              \
	X(M_DEAD_MAX_RETRIES, "sluice_dead_letters_total", "reason=\"max_retries_exceeded\"", "Dead letters written")  \
	X(M_DEAD_UNPARSEABLE, "sluice_dead_letters_total", "reason=\"unparseable\"", "")                               \
	X(M_DEAD_TOO_LARGE, "sluice_dead_letters_total", "reason=\"too_large\"", "")                                   \
	X(M_DEAD_REJECTED, "sluice_dead_letters_total", "reason=\"rejected\"", "")                                     \
	X(M_DEAD_OPERATOR, "sluice_dead_letters_total", "reason=\"operator\"", "")                                     \
	X(M_DEAD_WRONG_TYPE, "sluice_dead_letters_total", "reason=\"wrong_type\"", "")                                 \
	X(M_DEAD_BAD_NAME, "sluice_dead_letters_total", "reason=\"bad_name\"", "")                                     \
	X(M_DEAD_TRIMMED, "sluice_dead_letters_trimmed_total", "", "Dead letters lost to max_len")                     \
	X(M_FEED_DELIVERED, "sluice_entries_delivered_total", "", "Entries of data streams given to workers")          \
	X(M_FEED_ACKED, "sluice_entries_acked_total", "", "Of those, acknowledged and confirmed by Redis")             \
	X(M_FEED_NACK_FAILED, "sluice_entries_nacked_total", "reason=\"failed\"", "Entries a worker could not finish") \
	X(M_FEED_NACK_DEAD, "sluice_entries_nacked_total", "reason=\"dead\"", "")                                      \
	X(M_FEED_DEAD_MAX_RETRIES, "sluice_entries_dead_letters_total", "reason=\"max_retries_exceeded\"",             \
		"Entries of data streams that became dead letters")                                                    \
	X(M_FEED_DEAD_TOO_LARGE, "sluice_entries_dead_letters_total", "reason=\"too_large\"", "")                      \
	X(M_FEED_DEAD_REJECTED, "sluice_entries_dead_letters_total", "reason=\"rejected\"", "")                        \
	X(M_FEED_READ_ENTRIES, "sluice_feed_reads_total", "result=\"entries\"", "Reads of data streams")               \
	X(M_FEED_READ_EMPTY, "sluice_feed_reads_total", "result=\"empty\"", "")                                        \
	X(M_FEED_WAKE_PUSH, "sluice_feed_wakeups_total", "source=\"push\"", "What told of entries in an empty stream") \
	X(M_FEED_WAKE_POLL, "sluice_feed_wakeups_total", "source=\"poll\"", "")                                        \
	X(M_FEED_REFUSED, "sluice_ack_refused_total", "", "Positions that a newer owner has taken")                    \
	X(M_FEED_YIELDS, "sluice_feed_yields_total", "", "Streams without work that gave their credit to others")      \
	X(M_FEED_TRIMMED, "sluice_entries_trimmed_total", "",                                                          \
		"Entries of data streams that were trimmed or deleted before they were acknowledged")

#define METRIC_REDIS_COUNTERS(X) /* label redis="host:port" comes first */                                             \
	X(MR_EVENTS_OK, "sluice_keyspace_events_total", "result=\"ok\"", "Keyspace events of locks")                   \
	X(MR_EVENTS_DROPPED, "sluice_keyspace_events_total", "result=\"dropped\"", "")                                 \
	X(MR_EVENTS_IGNORED, "sluice_keyspace_events_total", "result=\"ignored\"", "")                                 \
	X(MR_SETUP_OK, "sluice_keyspace_setup_total", "result=\"ok\"", "Keyspace flags and subscriptions set up")      \
	X(MR_SETUP_DENIED, "sluice_keyspace_setup_total", "result=\"denied\"", "")                                     \
	X(MR_SETUP_ERROR, "sluice_keyspace_setup_total", "result=\"error\"", "")                                       \
	X(MR_RECONNECT_CLOSED, "sluice_redis_reconnects_total", "reason=\"closed\"", "Connections that were lost")     \
	X(MR_RECONNECT_REFUSED, "sluice_redis_reconnects_total", "reason=\"refused\"", "")                             \
	X(MR_RECONNECT_TIMEOUT, "sluice_redis_reconnects_total", "reason=\"timeout\"", "")                             \
	/* in the order of enum refusal */                                                                             \
	X(MR_REFUSED_OOM, "sluice_redis_refused_total", "error=\"OOM\"", "Commands and logins that Redis refused")     \
	X(MR_REFUSED_MISCONF, "sluice_redis_refused_total", "error=\"MISCONF\"", "")                                   \
	X(MR_REFUSED_NOREPLICAS, "sluice_redis_refused_total", "error=\"NOREPLICAS\"", "")                             \
	X(MR_REFUSED_READONLY, "sluice_redis_refused_total", "error=\"READONLY\"", "")                                 \
	X(MR_REFUSED_NOPERM, "sluice_redis_refused_total", "error=\"NOPERM\"", "")                                     \
	X(MR_REFUSED_NOAUTH, "sluice_redis_refused_total", "error=\"NOAUTH\"", "")                                     \
	X(MR_REFUSED_WRONGPASS, "sluice_redis_refused_total", "error=\"WRONGPASS\"", "")                               \
	X(MR_REFUSED_WRONGTYPE, "sluice_redis_refused_total", "error=\"WRONGTYPE\"", "")                               \
	X(MR_REFUSED_LOADING, "sluice_redis_refused_total", "error=\"LOADING\"", "")                                   \
	X(MR_REFUSED_BUSY, "sluice_redis_refused_total", "error=\"BUSY\"", "")                                         \
	X(MR_REFUSED_MASTERDOWN, "sluice_redis_refused_total", "error=\"MASTERDOWN\"", "")                             \
	X(MR_REFUSED_CLUSTERDOWN, "sluice_redis_refused_total", "error=\"CLUSTERDOWN\"", "")                           \
	X(MR_REFUSED_TRYAGAIN, "sluice_redis_refused_total", "error=\"TRYAGAIN\"", "")                                 \
	X(MR_REFUSED_MAXCLIENTS, "sluice_redis_refused_total", "error=\"MAXCLIENTS\"", "")                             \
	X(MR_REFUSED_OTHER, "sluice_redis_refused_total", "error=\"ERR\"", "")

#define METRIC_HANDOFF_COUNTERS(X) /* no label redis; summed over the shards */                                        \
	X(MH_MOVING_ACTED, "sluice_maintenance_notifications_total", "kind=\"moving\",result=\"acted\"",               \
		"Maintenance notifications")                                                                           \
	X(MH_MOVING_DUPLICATE, "sluice_maintenance_notifications_total", "kind=\"moving\",result=\"duplicate\"", "")   \
	X(MH_MOVING_STALE, "sluice_maintenance_notifications_total", "kind=\"moving\",result=\"stale\"", "")           \
	X(MH_MOVING_MALFORMED, "sluice_maintenance_notifications_total", "kind=\"moving\",result=\"malformed\"", "")   \
	X(MH_MIGRATING_ACTED, "sluice_maintenance_notifications_total", "kind=\"migrating\",result=\"acted\"", "")     \
	X(MH_MIGRATING_DUPLICATE, "sluice_maintenance_notifications_total", "kind=\"migrating\",result=\"duplicate\"", \
		"")                                                                                                    \
	X(MH_MIGRATING_STALE, "sluice_maintenance_notifications_total", "kind=\"migrating\",result=\"stale\"", "")     \
	X(MH_MIGRATING_MALFORMED, "sluice_maintenance_notifications_total", "kind=\"migrating\",result=\"malformed\"", \
		"")                                                                                                    \
	X(MH_MIGRATED_ACTED, "sluice_maintenance_notifications_total", "kind=\"migrated\",result=\"acted\"", "")       \
	X(MH_MIGRATED_DUPLICATE, "sluice_maintenance_notifications_total", "kind=\"migrated\",result=\"duplicate\"",   \
		"")                                                                                                    \
	X(MH_MIGRATED_STALE, "sluice_maintenance_notifications_total", "kind=\"migrated\",result=\"stale\"", "")       \
	X(MH_MIGRATED_MALFORMED, "sluice_maintenance_notifications_total", "kind=\"migrated\",result=\"malformed\"",   \
		"")                                                                                                    \
	X(MH_FAILING_OVER_ACTED, "sluice_maintenance_notifications_total", "kind=\"failing_over\",result=\"acted\"",   \
		"")                                                                                                    \
	X(MH_FAILING_OVER_DUPLICATE, "sluice_maintenance_notifications_total",                                         \
		"kind=\"failing_over\",result=\"duplicate\"", "")                                                      \
	X(MH_FAILING_OVER_STALE, "sluice_maintenance_notifications_total", "kind=\"failing_over\",result=\"stale\"",   \
		"")                                                                                                    \
	X(MH_FAILING_OVER_MALFORMED, "sluice_maintenance_notifications_total",                                         \
		"kind=\"failing_over\",result=\"malformed\"", "")                                                      \
	X(MH_FAILED_OVER_ACTED, "sluice_maintenance_notifications_total", "kind=\"failed_over\",result=\"acted\"", "") \
	X(MH_FAILED_OVER_DUPLICATE, "sluice_maintenance_notifications_total",                                          \
		"kind=\"failed_over\",result=\"duplicate\"", "")                                                       \
	X(MH_FAILED_OVER_STALE, "sluice_maintenance_notifications_total", "kind=\"failed_over\",result=\"stale\"", "") \
	X(MH_FAILED_OVER_MALFORMED, "sluice_maintenance_notifications_total",                                          \
		"kind=\"failed_over\",result=\"malformed\"", "")                                                       \
	X(MH_SMIGRATING_ACTED, "sluice_maintenance_notifications_total", "kind=\"smigrating\",result=\"acted\"", "")   \
	X(MH_SMIGRATING_DUPLICATE, "sluice_maintenance_notifications_total",                                           \
		"kind=\"smigrating\",result=\"duplicate\"", "")                                                        \
	X(MH_SMIGRATING_STALE, "sluice_maintenance_notifications_total", "kind=\"smigrating\",result=\"stale\"", "")   \
	X(MH_SMIGRATING_MALFORMED, "sluice_maintenance_notifications_total",                                           \
		"kind=\"smigrating\",result=\"malformed\"", "")                                                        \
	X(MH_SMIGRATED_ACTED, "sluice_maintenance_notifications_total", "kind=\"smigrated\",result=\"acted\"", "")     \
	X(MH_SMIGRATED_DUPLICATE, "sluice_maintenance_notifications_total", "kind=\"smigrated\",result=\"duplicate\"", \
		"")                                                                                                    \
	X(MH_SMIGRATED_STALE, "sluice_maintenance_notifications_total", "kind=\"smigrated\",result=\"stale\"", "")     \
	X(MH_SMIGRATED_MALFORMED, "sluice_maintenance_notifications_total", "kind=\"smigrated\",result=\"malformed\"", \
		"")                                                                                                    \
	X(MH_HANDOFF_OK, "sluice_handoffs_total", "result=\"ok\"",                                                     \
		"Announced moves: one each, whatever the number of connections")                                       \
	X(MH_HANDOFF_FAILED, "sluice_handoffs_total", "result=\"failed\"", "")                                         \
	X(MH_HANDOFF_FALLBACK, "sluice_handoffs_total", "result=\"fallback\"", "")                                     \
	X(MH_HANDOFF_SUPERSEDED, "sluice_handoffs_total", "result=\"superseded\"", "")

#define METRIC_PROCESS_COUNTERS(X)                                                                                     \
	X(MP_TOPO_PERIODIC_OK, "sluice_topology_refresh_total", "reason=\"periodic\",result=\"ok\"",                   \
		"Topology look-ups")                                                                                   \
	X(MP_TOPO_PERIODIC_ERROR, "sluice_topology_refresh_total", "reason=\"periodic\",result=\"error\"", "")         \
	X(MP_TOPO_MOVED_OK, "sluice_topology_refresh_total", "reason=\"moved\",result=\"ok\"", "")                     \
	X(MP_TOPO_MOVED_ERROR, "sluice_topology_refresh_total", "reason=\"moved\",result=\"error\"", "")               \
	X(MP_TOPO_OTHER_OK, "sluice_topology_refresh_total", "reason=\"other\",result=\"ok\"", "")                     \
	X(MP_TOPO_OTHER_ERROR, "sluice_topology_refresh_total", "reason=\"other\",result=\"error\"", "")               \
	X(MP_DISC_BYE, "sluice_worker_disconnects_total", "reason=\"bye\"", "Worker sessions that ended")              \
	X(MP_DISC_DIED, "sluice_worker_disconnects_total", "reason=\"died\"", "")                                      \
	X(MP_DISC_CLOSED, "sluice_worker_disconnects_total", "reason=\"closed\"", "")                                  \
	X(MP_DISC_ERROR, "sluice_worker_disconnects_total", "reason=\"error\"", "")                                    \
	X(MP_REVOKE_LOST, "sluice_worker_revokes_total", "reason=\"lost\"", "Revokes sent to workers")                 \
	X(MP_REVOKE_DRAIN, "sluice_worker_revokes_total", "reason=\"drain\"", "")                                      \
	X(MP_REVOKE_TIMEOUT, "sluice_worker_revokes_total", "reason=\"timeout\"", "")                                  \
	X(MP_REVOKE_OPERATOR, "sluice_worker_revokes_total", "reason=\"operator\"", "")                                \
	X(MP_REVOKE_SHUTDOWN, "sluice_worker_revokes_total", "reason=\"shutdown\"", "")

#define METRIC_SERVICE_HISTS(X)                                                                                        \
	X(H_ASSIGN_LATENCY, "sluice_assign_latency_seconds", "", "Added to the stream until assigned")                 \
	X(H_DURATION_DONE, "sluice_assignment_duration_seconds", "outcome=\"done\"", "Assigned until finished")        \
	X(H_DURATION_FAIL, "sluice_assignment_duration_seconds", "outcome=\"fail\"", "")                               \
	X(H_DURATION_OTHER, "sluice_assignment_duration_seconds", "outcome=\"other\"", "")                             \
	X(H_MARGIN, "sluice_lease_margin_seconds", "", "Time left at renewal")                                         \
	X(H_REC_PROBE, "sluice_recovery_latency_seconds", "source=\"probe\"", "Last sign of the owner until requeued") \
	X(H_REC_EVENT, "sluice_recovery_latency_seconds", "source=\"event\"", "")                                      \
	X(H_REC_SCAN, "sluice_recovery_latency_seconds", "source=\"scan\"", "")                                        \
	X(H_REC_WORKER, "sluice_recovery_latency_seconds", "source=\"worker_exit\"", "")                               \
	X(H_FEED_LATENCY, "sluice_entry_latency_seconds", "", "Added to a data stream until given to a worker")        \
	X(H_FEED_ACK, "sluice_entry_ack_seconds", "", "Given to a worker until confirmed by Redis")                    \
	X(H_SCAN, "sluice_recovery_scan_duration_seconds", "", "One reconciliation pass")

#define METRIC_REDIS_HISTS(X)                                                                                          \
	X(HR_RENEW, "sluice_lease_renew_duration_seconds", "", "Renewal sent until answered")                          \
	X(HR_COMMAND, "sluice_redis_command_duration_seconds", "", "Commands but blocking reads")

#define METRIC_ENUM(id, name, label, help) id,
enum metric_service { METRIC_SERVICE_COUNTERS(METRIC_ENUM) METRIC_SERVICE_N };
enum metric_redis { METRIC_REDIS_COUNTERS(METRIC_ENUM) METRIC_REDIS_N };
enum metric_handoff { METRIC_HANDOFF_COUNTERS(METRIC_ENUM) METRIC_HANDOFF_N };
enum metric_process { METRIC_PROCESS_COUNTERS(METRIC_ENUM) METRIC_PROCESS_N };
enum metric_service_hist { METRIC_SERVICE_HISTS(METRIC_ENUM) METRIC_SERVICE_HIST_N };
enum metric_redis_hist { METRIC_REDIS_HISTS(METRIC_ENUM) METRIC_REDIS_HIST_N };

struct metrics_service { /* one per service, in the coordinator and in each shard; summed in the snapshot */
	uint64_t c[METRIC_SERVICE_N];
	struct hist h[METRIC_SERVICE_HIST_N];
};
struct metrics_redis { /* one per shard */
	uint64_t c[METRIC_REDIS_N];
	struct hist h[METRIC_REDIS_HIST_N];
};
struct metrics_handoff { /* one per shard, of core/handoff */
	uint64_t c[METRIC_HANDOFF_N];
	struct hist duration; /* announced until the new connection serves, for each connection */
};

/* How long ago an entry was added: its id is the server's clock, and ours may be a little behind. One that is a second
 * or more ahead is no time of that clock, and is not counted. */
static inline void metric_add_age(struct hist *h, int64_t wall_ms, uint64_t id_ms)
{
	enum { AHEAD_MS = 1000 };
	if (id_ms < (uint64_t)wall_ms + AHEAD_MS)
		hist_add(h, (double)(wall_ms - (int64_t)id_ms) / 1000.0);
}
