/* Keys that the daemons keep for themselves are no data streams. */
#include "base/fnv.h"
#include "coord_story.h"

static struct own_key keys[2][2];

static void keep(uint16_t svc, const char *lbs, const char *dead)
{
	keys[svc][0] = (struct own_key){.hash = fnv(lbs, strlen(lbs)), .kind = OWN_LBS, .name = lbs};
	keys[svc][1] = (struct own_key){.hash = fnv(dead, strlen(dead)), .kind = OWN_DEAD_LETTERS, .name = dead};
	story_own_keys[svc] = keys[svc];
	story_n_own[svc] = 2;
}

static void up(bool has_entries)
{
	story_entries.is_on = has_entries;
	keep(0, "orders-input", "orders-input-dlq");
	keep(1, "mail-input", "mail-input-dlq");
	story_begin();
	story_services(2, 100);
	story_event((struct coord_event){.kind = COORD_TOPOLOGY, .text = {"a:1", 3}});
	story_own(0, 0, "");
	story_own(1, 0, "");
	story_clear();
}

static bool is_refused(uint16_t svc, const char *stream, bool is_position)
{
	char why[OWN_WHY_CAP];
	const struct own_name name = {stream, strlen(stream), is_position};
	return services_is_own_key(&W.c->services, services_find(&W.c->services, svc), &name, why);
}

Test(own_keys, an_entry_that_names_its_own_stream_is_a_dead_letter, .fini = story_down)
{
	up(true);
	story_read(0, 2000, "orders-input");
	expect_story("[ 1000] s dead 2000-0 retry=0\n");
	char why[OWN_WHY_CAP];
	const struct own_name name = {"mail-input-dlq", 14, false};
	cr_assert(services_is_own_key(&W.c->services, services_find(&W.c->services, 0), &name, why));
	cr_assert_str_eq(why, "mail-input-dlq is the dead-letter stream of service mail, not a data stream");
}

Test(own_keys, entries_mode_takes_nobodys, .fini = story_down)
{
	up(true);
	cr_assert(is_refused(0, "orders-input", false) && is_refused(0, "orders-input-dlq", false));
	cr_assert(is_refused(0, "mail-input", false) && is_refused(1, "orders-input", false));
	cr_assert(is_refused(0, "{a}-sluice", true));
	cr_assert(!is_refused(0, "orders-inpuu", false) && !is_refused(0, "orders-input:1", false));
}

Test(own_keys, lease_mode_takes_not_its_own_but_dead_letters, .fini = story_down)
{
	up(false);
	cr_assert(is_refused(0, "orders-input", false) && is_refused(1, "mail-input", false));
	cr_assert(!is_refused(0, "orders-input-dlq", false) && !is_refused(0, "mail-input", false));
	cr_assert(!is_refused(0, "{a}-sluice", true));
}
