/* The table of rights is the list of what is sent: by command.c, from scripts, in handshakes, by doctor; and what etc/sluiced.acl allows. */
#include "codec/rights.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "codec/command.h"
#include "codec/script.h"

enum { RIGHTS_MAX = 64 };

static bool is_used[RIGHTS_MAX];

/* Marks the rule for these words; false when there is none. */
static bool use(const char *const *words, const size_t *lens, size_t n)
{
	for (size_t i = 0; i < rights_n(); i++)
		if (right_is_for(rights_at(i), words, lens, n))
			return is_used[i] = true;
	return false;
}

static void use_words(const char *name, const char *sub)
{
	const char *words[] = {name, sub};
	const size_t lens[] = {strlen(name), strlen(sub)};
	cr_expect(use(words, lens, 2), "%s %s has no rule", name, sub);
}

static void use_commands(bool use_delifeq, bool use_eval)
{
	static _Alignas(struct field_list) char room[sizeof(struct field_list) + sizeof(struct field)];
	struct field_list *fields = (struct field_list *)room;
	fields->n = 1;
	fields->v[0] = (struct field){{"f", 1}, {"v", 1}};
	struct command_names names;
	command_names_init(&names, "orders", "", SAME_STREAM_SERIALIZE, 500, "0");
	command_names_entries(&names, "orders", "", 500);
	struct command_argv *args = command_argv_new();
	struct command_self self = {.consumer = "c", .node = "n"};
	for (int k = 0; k < CMD_N; k++) {
		const struct cmd_entry entry = {.stream = {"s", 1}};
		struct cmd c = {.kind = (enum cmd_kind)k, .use_eval = use_eval};
		if (k == CMD_TAKE_MANY || k == CMD_DONE_MANY)
			c.as.many = (struct cmd_many){.v = &entry, .n = 1};
		else if (k == CMD_DEAD_ADD || k == CMD_FEED_DEAD_ADD)
			c.as.dead.fields = fields;
		else if (k == CMD_REPLAY || k == CMD_ADD_LATER)
			c.as.add.fields = fields;
		else if (k == CMD_UNLOCK)
			c.as.lock.use_delifeq = use_delifeq;
		command_encode(args, &c, &names, &self);
		cr_expect(use(command_args(args), command_lens(args), (size_t)command_argc(args)), "%s has no rule",
			command_name((enum cmd_kind)k));
	}
	command_argv_free(args);
	command_names_fini(&names);
}

/* What stands quoted after "call(", with a container's first argument behind it. */
static void use_script(const char *text)
{
	size_t n = 0;
	for (const char *p = text; (p = strstr(p, "call('")); n++) {
		char name[32] = "", sub[32] = "";
		sscanf(p, "call('%31[A-Z]', '%31[A-Z]'", name, sub);
		use_words(name, sub);
		p += strlen("call('");
	}
	cr_expect_gt(n, 0);
}

Test(rights, the_table_is_what_is_sent)
{
	cr_assert_leq(rights_n(), RIGHTS_MAX);
	use_commands(false, false);
	use_commands(true, true);
	for (int s = 0; s < SCRIPT_N; s++)
		use_script(script_text((enum script)s));
	static const char *const others[][2] = {/* io/redis: handshake, ASKING */
		{"SELECT", "0"}, {"ASKING", ""}, {"CLIENT", "ID"}, {"CLIENT", "SETNAME"},
		{"CLIENT", "MAINT_NOTIFICATIONS"},
		/* sluicectl dlq */
		{"XREVRANGE", ""},
		/* sluicectl delayed, explain */
		{"HMGET", ""},
		/* doctor */
		{"TIME", ""}, {"CLUSTER", "INFO"}, {"ACL", "DRYRUN"}};
	for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
		use_words(others[i][0], others[i][1]);
	for (size_t i = 0; i < rights_n(); i++)
		cr_expect(is_used[i], "nobody sends %s", rights_at(i)->rule);
}

Test(rights, every_trial_is_a_call_of_its_command)
{
	for (size_t i = 0; i < rights_n(); i++) {
		const struct right *r = rights_at(i);
		size_t lens[RIGHT_WORDS], n = 0;
		for (; n < RIGHT_WORDS && r->trial[n]; n++)
			lens[n] = strlen(r->trial[n]);
		cr_expect_eq(n == 0, r->is_optional, "%s", r->rule);
		cr_expect_lt(n, RIGHT_WORDS, "%s", r->rule);
		cr_expect(n == 0 || right_is_for(r, r->trial, lens, n), "%s", r->rule);
	}
	cr_expect(!right_is_for(&(struct right){.rule = "xinfo|groups"}, (const char *[]){"XINFO"}, (size_t[]){5}, 1));
	cr_expect(!right_is_for(&(struct right){.rule = "get"}, (const char *[]){"GETEX", "k"}, (size_t[]){5, 1}, 2));
}

/* etc/sluiced.acl has one line; its rules are those of the table, and the keys and the channel of a service `orders`. */
Test(rights, the_file_allows_exactly_these)
{
	static char line[8192];
	FILE *f = fopen("etc/sluiced.acl", "r");
	cr_assert(f, "run from the top of the repository");
	cr_assert(fgets(line, sizeof line, f));
	cr_expect(!fgets(line + strlen(line), 8, f), "one line");
	fclose(f);
	struct command_names names;
	command_names_init(&names, "orders", "", SAME_STREAM_SERIALIZE, 0, "0");
	char expected[8192] = "user sluiced on resetkeys resetchannels -@all";
	size_t n = strlen(expected);
	for (size_t i = 0; i < rights_n(); i++)
		if (!rights_at(i)->is_optional)
			n += (size_t)snprintf(expected + n, sizeof expected - n, " +%s", rights_at(i)->rule);
	snprintf(expected + n, sizeof expected - n,
		" ~%s ~%s ~%s ~%s ~%s ~%s ~%s ~%s ~orders:* ~{orders:*}-sluice ~orders-entries-dlq "
		"~*" COMMAND_LOCK_SEP "* &__keyspace@0__:*" COMMAND_LOCK_SEP "*\n",
		names.lbs, names.registry, names.delayed, names.delayed_data, names.parked, names.left, names.fleet,
		names.dlq);
	cr_expect_str_eq(line, expected);
	command_names_fini(&names);
}
