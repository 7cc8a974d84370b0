#include "run/control/rights.h"

#include <stdio.h>
#include <string.h>

#include "codec/command.h"

enum { LOCK_KEY, SERVICE_KEYS, KEYS_PER_SERVICE = 8 };

void control_rights_init(struct control_rights *r, const struct config *c)
{
	*r = (struct control_rights){0};
	snprintf(r->user, sizeof r->user, "%s", *c->redis.username ? c->redis.username : "default");
	snprintf(r->db, sizeof r->db, "%lld", (long long)c->redis.db);
	snprintf(r->channel, sizeof r->channel, "__keyspace@%s__:*" COMMAND_LOCK_SEP "*", r->db);
}

/* ---- which key: %lbs and the like in a command's trial, or the at-th of all */

static void set_service_key(struct control_rights *r, const struct config_service *s, const char *which)
{
	struct command_names n;
	command_names_init(&n, s->name, s->dead_letter.stream, SAME_STREAM_SERIALIZE, 0, s->group_start);
	const struct {
		const char *which, *key;
	} keys[] = {{RIGHT_LBS, n.lbs}, {RIGHT_REGISTRY, n.registry}, {RIGHT_DELAYED, n.delayed},
		{RIGHT_DELAYED_DATA, n.delayed_data}, {RIGHT_PARKED, n.parked}, {RIGHT_LEFT, n.left},
		{RIGHT_FLEET, n.fleet}};
	const char *key = n.dlq;
	for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
		if (strcmp(which, keys[i].which) == 0)
			key = keys[i].key;
	snprintf(r->key, sizeof r->key, "%s", key);
	command_names_fini(&n);
}

static const char *word_of(struct control_rights *r, const struct config *c, const char *word)
{
	if (strcmp(word, RIGHT_CHANNEL) == 0)
		return r->channel;
	if (strcmp(word, RIGHT_DB) == 0)
		return r->db;
	if (strcmp(word, RIGHT_LOCK) == 0)
		return right_lock;
	if (word[0] != '%')
		return word;
	set_service_key(r, &c->services[0], word);
	return r->key;
}

static void set_key(struct control_rights *r, const struct config *c, size_t k)
{
	static const char *const which[KEYS_PER_SERVICE] = {RIGHT_LBS, RIGHT_REGISTRY, RIGHT_DELAYED,
		RIGHT_DELAYED_DATA, RIGHT_PARKED, RIGHT_LEFT, RIGHT_FLEET, ""};
	if (k == LOCK_KEY)
		snprintf(r->key, sizeof r->key, "%s", right_lock);
	else
		set_service_key(r, &c->services[(k - SERVICE_KEYS) / KEYS_PER_SERVICE],
			which[(k - SERVICE_KEYS) % KEYS_PER_SERVICE]);
}

/* ---- the questions: the keys, then the commands, of which the last subscribes */

static bool is_skipped(const struct right *right, const struct config *c)
{
	bool has_entries = false;
	for (size_t i = 0; i < c->n_services; i++)
		has_entries = has_entries || c->services[i].entries.enabled;
	return right->is_optional || (right->is_entries && !has_entries);
}

const char *const *control_rights_next(struct control_rights *r, const struct config *c)
{
	r->n_keys = SERVICE_KEYS + KEYS_PER_SERVICE * c->n_services;
	while (r->at >= r->n_keys && r->at < r->n_keys + rights_n() && is_skipped(rights_at(r->at - r->n_keys), c))
		r->at++;
	size_t n = 0;
	if (r->at >= r->n_keys + rights_n())
		return NULL;
	if (!r->is_trying) {
		r->words[n++] = "ACL";
		r->words[n++] = "DRYRUN";
		r->words[n++] = r->user;
	}
	if (r->at >= r->n_keys) {
		for (const char *const *w = rights_at(r->at - r->n_keys)->trial; *w; w++)
			r->words[n++] = word_of(r, c, *w);
	} else {
		set_key(r, c, r->at);
		for (const char *const *w = right_key_trial; *w; w++)
			r->words[n++] = *w;
		r->words[n++] = r->key;
	}
	r->words[n] = NULL;
	return r->words;
}

/* ---- the answers */

/* "… has no permissions to run the 'get' command": all versions say it so; else it is about a key or a channel. */
static bool is_about_command(const char *words)
{
	return strstr(words, "permissions to run ") != NULL;
}

static void name_missing_key(struct control_rights *r, const char *denied)
{
	if (is_about_command(denied))
		return; /* will be named, and the keys cannot be known */
	if (r->at == LOCK_KEY)
		snprintf(r->missing, sizeof r->missing, "~*" COMMAND_LOCK_SEP "*");
	else
		snprintf(r->missing, sizeof r->missing, "~%.590s", r->key);
}

static void name_missing_rule(struct control_rights *r, const char *denied)
{
	const char *rule = rights_at(r->at - r->n_keys)->rule;
	if (is_about_command(denied))
		snprintf(r->missing, sizeof r->missing, "+%s", rule);
	else if (strcmp(rule, "psubscribe") == 0)
		snprintf(r->missing, sizeof r->missing, "&%.60s", r->channel);
	/* else a key, named already */
}

const char *control_rights_answer(struct control_rights *r, const char *error, const char *text)
{
	const char *denied = NULL;
	r->missing[0] = '\0';
	if (!r->is_trying && error) {
		r->is_trying = true; /* the same question again */
		return NULL;
	}
	if (r->is_trying && error)
		denied = strstr(error, "NOPERM");
	else if (!r->is_trying && text && strcmp(text, "OK") != 0)
		denied = text;
	if (denied && r->at < r->n_keys)
		name_missing_key(r, denied);
	else if (denied)
		name_missing_rule(r, denied);
	r->at++;
	r->n_missing += r->missing[0] != '\0';
	return r->missing[0] ? r->missing : NULL;
}
