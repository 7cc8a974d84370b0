#include "config/env.h"
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/suggest.h"
#include "config/text.h"

static const char PREFIX[] = "SLUICED_";

enum { MAX_NAME = 128 };

/* A variable's name on its way to a setting. */
struct walk {
	char name[MAX_NAME];             /* SLUICED_REDIS__DB */
	const char *rest;                /* the components still to come, in name */
	char prefix[OPTION_MAX_PATH];    /* of the map reached: "redis." */
	char shown[2 * OPTION_MAX_PATH]; /* the path for messages: "services[0].lease" */
	size_t service;
	struct err *err;
};

const char *env_get(char *const *env, const char *name)
{
	size_t len = strlen(name);
	for (; env && *env; env++) {
		if (strncmp(*env, name, len) == 0 && (*env)[len] == '=')
			return *env + len + 1;
	}
	return NULL;
}

static enum err_code env_fail(const struct walk *w, const char *problem)
{
	char shown[TEXT_SHOWN];
	text_show(w->name, strlen(w->name), shown);
	return err_set(
		w->err, ERR_INVALID, "environment: %.*s: %s: %s", (int)strlen(shown) - 2, shown + 1, w->shown, problem);
}

/* Cuts the next component off, in small letters. */
static void next_component(struct walk *w, char out[static MAX_NAME])
{
	const char *end = strstr(w->rest, "__");
	size_t len = end ? (size_t)(end - w->rest) : strlen(w->rest);
	for (size_t i = 0; i < len; i++)
		out[i] = (char)tolower((unsigned char)w->rest[i]);
	out[len] = '\0';
	w->rest = end ? end + 2 : w->rest + len;
}

static void show(struct walk *w, const char *component)
{
	char shown[TEXT_SHOWN];
	text_show(component, strlen(component), shown);
	size_t used = strlen(w->shown);
	snprintf(w->shown + used, sizeof w->shown - used, "%s%.*s", used ? "." : "", (int)strlen(shown) - 2, shown + 1);
}

/* "log.level" as "LOG_LEVEL", or as it has to be written: "LOG__LEVEL"; "services[].name" with the number in name.
 * False: it does not fit. */
static bool write_name(const char *path, const char *number, const char *joint, char *out, size_t cap)
{
	size_t n = 0;
	for (const char *p = path; *p && n + 8 < cap; p++) {
		if (*p == '[') {
			n += (size_t)snprintf(out + n, cap - n, "%s%.4s", joint, number);
			p++;
		} else if (*p == '.') {
			n += (size_t)snprintf(out + n, cap - n, "%s", joint);
		} else {
			out[n++] = (char)toupper((unsigned char)*p);
		}
	}
	out[n] = '\0';
	return n + 8 < cap;
}

/* Log__Level as LOG_LEVEL; what is too long is cut. */
static void write_flat(const char *name, size_t len, char out[static MAX_NAME])
{
	size_t n = 0;
	for (size_t i = 0; i < len && n + 1 < MAX_NAME; i++)
		if (name[i] != '_' || n == 0 || out[n - 1] != '_')
			out[n++] = (char)toupper((unsigned char)name[i]);
	out[n] = '\0';
}

/* SERVICE_NAME as SERVICES_0_NAME, the number into number. Other names stay. */
static void write_service_number(char flat[static MAX_NAME], char number[static 5])
{
	size_t skip = strncmp(flat, "SERVICES_", 9) == 0 ? 9 : strncmp(flat, "SERVICE_", 8) == 0 ? 8 : 0;
	if (!skip)
		return;
	char tail[MAX_NAME];
	size_t n = strspn(flat + skip, "0123456789");
	if (n)
		snprintf(number, 5, "%.*s", n < 4 ? (int)n : 4, flat + skip);
	strcpy(tail, flat + skip + n);
	snprintf(flat, MAX_NAME, "SERVICES_%.4s_%.100s", number, tail + (*tail == '_'));
}

/* How a name with single underscores is like that of a setting; the later, the surer. */
enum likeness {
	LIKENESS_NONE,
	LIKENESS_SECTION, /* REDIS_URL: only the section is there */
	LIKENESS_NEAR,    /* WORKER_SOCKET */
	LIKENESS_MAP,     /* REDIS_PASSWORD: more has to follow */
	LIKENESS_EXACT
};

struct meant {
	enum likeness likeness;
	enum option_id id;
	size_t edits;
};

static enum likeness compare_flat(const char *given, const char *flat, size_t *edits)
{
	size_t n = strlen(given), section = strcspn(given, "_");
	*edits = suggest_distance(given, n, flat, strlen(flat));
	if (strcmp(given, flat) == 0)
		return LIKENESS_EXACT;
	if (n && strncmp(given, flat, n) == 0 && flat[n] == '_')
		return LIKENESS_MAP;
	bool is_in_section = given[section] && strncmp(given, flat, section + 1) == 0;
	if (suggest_is_near(*edits, strlen(flat) - (is_in_section ? section + 1 : 0))) /* URL is not near DB */
		return LIKENESS_NEAR;
	return is_in_section ? LIKENESS_SECTION : LIKENESS_NONE;
}

static struct meant find_meant(const char *given, const char *number)
{
	struct meant best = {.likeness = LIKENESS_NONE};
	for (enum option_id id = 0; id < N_OPTIONS; id++) {
		char flat[MAX_NAME];
		struct meant m = {.id = id};
		if (!write_name(options[id].path, number, "_", flat, sizeof flat))
			continue;
		m.likeness = compare_flat(given, flat, &m.edits);
		if (m.likeness > best.likeness ||
			(m.likeness == LIKENESS_NEAR && m.likeness == best.likeness && m.edits < best.edits))
			best = m;
	}
	return best;
}

/* SLUICED_LOG_LEVEL: one underscore where two separate the parts, or two where a name has one. Names that are less
 * like a setting than `least` pass. */
static enum err_code check_underscores(const char *name, size_t len, enum likeness least, struct err *err)
{
	char number[5] = "0", given[MAX_NAME], good[MAX_NAME], shown[TEXT_SHOWN];
	write_flat(name + sizeof PREFIX - 1, len - (sizeof PREFIX - 1), given);
	write_service_number(given, number);
	struct meant m = find_meant(given, number);
	if (m.likeness < least)
		return ERR_OK;
	write_name(options[m.id].path, number, "__", good, sizeof good);
	text_show(name, len, shown);
	bool is_meant = m.likeness > LIKENESS_SECTION;
	return err_set(err, ERR_INVALID, "environment: %.*s: %stwo underscores separate the parts%s%s%s%s",
		(int)strlen(shown) - 2, shown + 1, is_meant ? "" : "unknown key; ",
		is_meant ? " (did you mean " : ", as in ", PREFIX, good, is_meant ? "?)" : "");
}

/* Names that begin with ours: those of our other programs, and those that Kubernetes gives to each container for a
 * Service called sluiced-redis: SLUICED_REDIS_SERVICE_HOST, _PORT=tcp://10.0.0.2:6379, _PORT_6379_TCP_ADDR. */
static bool is_of_others(const char *name, size_t len, const char *value)
{
	char copy[MAX_NAME];
	snprintf(copy, sizeof copy, "%.*s", len < MAX_NAME ? (int)len : MAX_NAME - 1, name);
	if (strcmp(copy, "SLUICED_WORKER") == 0 || strcmp(copy, "SLUICED_CONTROL") == 0)
		return true;
	if (strstr(copy, "_SERVICE_HOST") || strstr(copy, "_SERVICE_PORT"))
		return true;
	const char *port = strstr(copy, "_PORT");
	if (!port)
		return false;
	port += strlen("_PORT");
	if (!*port)
		return strstr(value, "://") != NULL;
	const char *protocol = port + 1 + strspn(port + 1, "0123456789");
	return *port == '_' && (strncmp(protocol, "_TCP", 4) == 0 || strncmp(protocol, "_UDP", 4) == 0 ||
				       strncmp(protocol, "_SCTP", 5) == 0);
}

/* `start` is where the unknown component stands in name. */
static enum err_code env_fail_unknown(const struct walk *w, const char *component, const char *start)
{
	char near[OPTION_MAX_PATH], problem[MAX_NAME + 2 * OPTION_MAX_PATH];
	enum err_code code = check_underscores(w->name, strlen(w->name), LIKENESS_EXACT, w->err);
	if (code)
		return code;
	if (!option_suggest(w->prefix, component, strlen(component), near))
		return env_fail(w, "unknown key");
	for (char *p = near; *p; p++)
		*p = (char)toupper((unsigned char)*p);
	snprintf(problem, sizeof problem, "unknown key (did you mean %.*s%s%s?)", (int)(start - w->name), w->name, near,
		start + strlen(component));
	return env_fail(w, problem);
}

static enum err_code enter_service(struct walk *w)
{
	char number[MAX_NAME];
	next_component(w, number);
	size_t n = strlen(number);
	if (n == 0 || n > 4 || strspn(number, "0123456789") != n || (n > 1 && number[0] == '0'))
		return env_fail(w, "needs the number of a service, like SLUICED_SERVICES__0__NAME");
	w->service = strtoul(number, NULL, 10);
	if (w->service >= OPTION_MAX_SERVICES)
		return env_fail(w, "too many services, 256 are allowed");
	snprintf(w->shown, sizeof w->shown, "services[%zu]", w->service);
	strcpy(w->prefix, "services[].");
	return ERR_OK;
}

/* Into a map: a name of the table, shorter than the room. */
static void enter_map(struct walk *w, const char *component)
{
	size_t len = strlen(w->prefix);
	snprintf(w->prefix + len, sizeof w->prefix - len, "%s.", component);
}

/* Goes down to a row. On success *id is it. */
static enum err_code find_row(struct walk *w, enum option_id *id)
{
	while (*w->rest) {
		char component[MAX_NAME];
		const char *start = w->rest;
		next_component(w, component);
		show(w, component);
		struct option_child child = option_child(w->prefix, component, strlen(component));
		*id = child.first;
		enum err_code rc = ERR_OK;
		if (child.kind == OPTION_KIND_NONE)
			return env_fail_unknown(w, component, start);
		if (child.kind == OPTION_KIND_SERVICES)
			rc = enter_service(w);
		else if (child.kind == OPTION_KIND_MAP)
			enter_map(w, component);
		else if (*w->rest)
			return env_fail(w, "is a setting and has no keys; lists are written a,b");
		else
			return w->rest[-1] == '_' ? env_fail(w, "its name ends before the last two underscores")
						  : ERR_OK;
		if (rc != ERR_OK)
			return rc;
	}
	return env_fail(w, "is a map; name one of its keys");
}

/* A password set here takes the place of the file's, whatever its kind. first: the row of its .file, the other two
 * stand behind it. */
static void clear_password(struct raw *raw, enum option_id first, bool also_env)
{
	for (enum option_id id = first; id <= first + 2; id++) {
		if (also_env || raw->values[id].from.kind == ORIGIN_FILE)
			raw_clear(&raw->values[id]);
	}
}

static enum err_code env_apply_one(struct raw *raw, struct walk *w, const char *value)
{
	enum option_id id = N_OPTIONS;
	if (strcmp(w->name, "SLUICED_REDIS__PASSWORD") == 0) {
		strcpy(w->shown, "redis.password");
		if (*value)
			return env_fail(w, "a password does not belong here; set SLUICED_REDIS__PASSWORD__FILE, "
					   "__CREDENTIAL or __ENV");
		clear_password(raw, OPT_REDIS_PASSWORD_FILE, true);
		return ERR_OK;
	}
	enum err_code rc = find_row(w, &id);
	if (rc != ERR_OK)
		return rc;
	if (option_is_service(id))
		raw_need_services(raw, w->service + 1, (struct origin){.kind = ORIGIN_ENV, .env = w->name});
	if (options[id].type == OPTION_SECRET && *value)
		clear_password(raw,
			id >= OPT_REDIS_PASSWORD_FILE ? OPT_REDIS_PASSWORD_FILE : OPT_REDIS_SENTINEL_PASSWORD_FILE,
			false);
	raw_set_env(raw_value(raw, id, w->service), id, w->name, value);
	return ERR_OK;
}

enum err_code env_apply(struct raw *raw, char *const *env, struct err *err)
{
	for (; env && *env; env++) {
		const char *name = *env, *equals = strchr(name, '=');
		if (!equals)
			continue;
		size_t len = (size_t)(equals - name);
		if (strncmp(name, PREFIX, sizeof PREFIX - 1) != 0)
			continue;
		if (!memmem(name, len, "__", 2)) {
			if (is_of_others(name, len, equals + 1))
				continue;
			/* it would be ignored without a word */
			enum err_code code = check_underscores(name, len, LIKENESS_SECTION, err);
			if (code)
				return code;
			continue;
		}
		struct walk w = {.err = err};
		memcpy(w.name, name, len < MAX_NAME ? len : MAX_NAME - 1);
		w.rest = w.name + sizeof PREFIX - 1;
		if (len >= MAX_NAME) {
			strcpy(w.shown, "?");
			return env_fail(&w, "unknown key");
		}
		enum err_code rc = env_apply_one(raw, &w, equals + 1);
		if (rc != ERR_OK)
			return rc;
	}
	return ERR_OK;
}
