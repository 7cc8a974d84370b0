/* The command line. Verbs, arguments and help come from codec/ctl's two tables; here are only the global options. */
#include "bin/sluicectl/sluicectl.h"
#include "base/duration.h"
#include "base/suggest.h"

#include <stdlib.h>
#include <string.h>

enum { OPTIONS_MAX = CTL_ARG_N, TIMEOUT_MS = 5000, TIMEOUT_DOCTOR_MS = 30000, TIMEOUT_UNSET = -2 };

static const char socket_default[] = "/run/sluiced/control.sock";

enum global {
	GLOBAL_JSON,
	GLOBAL_SOCKET,
	GLOBAL_TIMEOUT,
	GLOBAL_NO_HEADERS,
	GLOBAL_YES,
	GLOBAL_HELP,
	GLOBAL_VERSION,
	GLOBAL_N
};

static const struct {
	const char *option, *value, *help;
} globals[GLOBAL_N] = {
	[GLOBAL_JSON] = {"--json", NULL, "one JSON object, or one per line for lists"},
	[GLOBAL_SOCKET] = {"--socket", "PATH",
		"or -s: the control socket, else $SLUICED_CONTROL (default /run/sluiced/control.sock)"},
	[GLOBAL_TIMEOUT] = {"--timeout", "DUR", "give up after so much silence (default 5s, doctor 30s)"},
	[GLOBAL_NO_HEADERS] = {"--no-headers", NULL, "tables without their first line"},
	[GLOBAL_YES] = {"--yes", NULL, "on a terminal: purge and drop without asking"},
	[GLOBAL_HELP] = {"--help", NULL, "this text, or a verb's"},
	[GLOBAL_VERSION] = {"--version", NULL, "this program's version"},
};

/* What the first pass over argv finds: words, and the verb's options unconverted. */
struct scan {
	char **words; /* in argv, compacted */
	int n_words;
	enum ctl_arg args[OPTIONS_MAX];
	const char *values[OPTIONS_MAX];
	unsigned n_args;
	uint32_t globals_given;
	bool help, version;
};

static bool find_option(const char *name, size_t len, enum global *g, enum ctl_arg *a)
{
	*g = GLOBAL_N;
	*a = CTL_ARG_N;
	for (unsigned i = 0; i < GLOBAL_N; i++) {
		if (strlen(globals[i].option) == len && memcmp(globals[i].option, name, len) == 0)
			*g = (enum global)i;
	}
	for (unsigned i = 0; i < CTL_ARG_N; i++) {
		const char *option = ctl_arg_info((enum ctl_arg)i)->option;
		if (strlen(option) == len && memcmp(option, name, len) == 0)
			*a = (enum ctl_arg)i;
	}
	return *g != GLOBAL_N || *a != CTL_ARG_N;
}

static enum err_code set_global(
	struct scan *s, struct ctl_options *o, enum global g, const char *value, struct err *err)
{
	if (s->globals_given >> g & 1u && globals[g].value)
		return err_set(err, ERR_INVALID, "%s is given twice", globals[g].option);
	s->globals_given |= 1u << g;
	switch (g) {
	case GLOBAL_JSON:
		o->json = true;
		break;
	case GLOBAL_SOCKET:
		if (!value || !*value)
			return err_set(err, ERR_INVALID, "--socket is empty");
		o->socket = value;
		break;
	case GLOBAL_TIMEOUT:
		if (!duration_parse(value, &o->timeout_ms) || o->timeout_ms <= 0)
			return err_set(err, ERR_INVALID,
				"--timeout must be a duration like 500ms or 10s, not \"%.64s\"", value);
		break;
	case GLOBAL_NO_HEADERS:
		o->no_headers = true;
		break;
	case GLOBAL_YES:
		o->yes = true;
		break;
	case GLOBAL_HELP:
		s->help = true;
		break;
	case GLOBAL_VERSION:
		s->version = true;
		break;
	case GLOBAL_N:
		break;
	}
	return ERR_OK;
}

/* One option at argv[*i]; takes its value from behind '=' or from the next word. */
static enum err_code scan_option(struct scan *s, struct ctl_options *o, int argc, char **argv, int *i, struct err *err)
{
	const char *word = argv[*i], *equals = strchr(word, '=');
	size_t len = equals ? (size_t)(equals - word) : strlen(word);
	enum global g;
	enum ctl_arg a;
	if (strcmp(word, "-h") == 0) {
		s->help = true;
		return ERR_OK;
	}
	if (strcmp(word, "-s") == 0) { /* as sluice-run has it */
		word = globals[GLOBAL_SOCKET].option;
		len = strlen(word);
	}
	if (!find_option(word, len, &g, &a))
		return err_set(err, ERR_INVALID, "unknown option %.*s", (int)(len < 64 ? len : 64), word);
	const char *takes = g != GLOBAL_N ? globals[g].value : ctl_arg_info(a)->value;
	const char *value = equals ? equals + 1 : NULL;
	if (!takes && equals)
		return err_set(err, ERR_INVALID, "%.*s takes no value", (int)len, word);
	if (takes && !equals) {
		if (*i + 1 >= argc)
			return err_set(err, ERR_INVALID, "%s needs a value: %s %s", word, word, takes);
		value = argv[++*i];
	}
	if (g != GLOBAL_N)
		return set_global(s, o, g, value, err);
	if (s->n_args == OPTIONS_MAX)
		return err_set(err, ERR_INVALID, "too many options");
	s->args[s->n_args] = a;
	s->values[s->n_args++] = value;
	return ERR_OK;
}

static enum err_code scan_words(struct scan *s, struct ctl_options *o, int argc, char **argv, struct err *err)
{
	bool options_end = false;
	for (int i = 1; i < argc; i++) {
		if (!options_end && strcmp(argv[i], "--") == 0) {
			options_end = true;
		} else if (!options_end && argv[i][0] == '-' && argv[i][1]) {
			enum err_code code = scan_option(s, o, argc, argv, &i, err);
			if (code != ERR_OK)
				return code;
		} else {
			s->words[s->n_words++] = argv[i]; /* never ahead of what is read */
		}
	}
	return ERR_OK;
}

/* The second words of the verbs that begin with this one, "ls, show"; empty: there are none. */
static void following_words(struct buf *b, const char *first)
{
	size_t len = strlen(first);
	for (unsigned i = 0; i < CTL_VERB_N; i++) {
		const char *name = ctl_verb_info((enum ctl_verb)i)->name;
		if (strncmp(name, first, len) == 0 && name[len] == ' ')
			buf_printf(b, "%s%s", b->len ? ", " : "", name + len + 1);
	}
}

static bool is_group_word(const char *word)
{
	struct buf more;
	buf_init(&more);
	following_words(&more, word);
	bool is = more.len > 0;
	buf_fini(&more);
	return is;
}

static enum err_code say_group(const char *given, struct err *err)
{
	struct buf more;
	buf_init(&more);
	following_words(&more, given);
	err_set(err, ERR_INVALID, "%.64s: what? One of: %s", given, more.data);
	buf_fini(&more);
	return ERR_INVALID;
}

static enum err_code say_unknown_verb(const char *given, struct err *err)
{
	if (is_group_word(given))
		return say_group(given, err);
	const char *best = NULL;
	size_t least = SUGGEST_MAX;
	for (unsigned i = 0; i < CTL_VERB_N; i++) {
		const char *name = ctl_verb_info((enum ctl_verb)i)->name;
		size_t edits = suggest_distance(given, strlen(given), name, strlen(name));
		if (suggest_is_near(edits, strlen(name)) && edits < least) {
			least = edits;
			best = name;
		}
	}
	if (best)
		return err_set(err, ERR_INVALID, "unknown verb \"%.64s\" (did you mean \"%s\"?)", given, best);
	return err_set(err, ERR_INVALID, "unknown verb \"%.64s\"", given);
}

/* Finds the verb at the start of the words and takes them away. Names of two words are tried first. */
static enum err_code take_verb(struct scan *s, enum ctl_verb *verb, bool *is_top, struct err *err)
{
	char two[64] = "";
	if (s->n_words == 0)
		return err_set(err, ERR_INVALID, "a verb is missing");
	*is_top = strcmp(s->words[0], "top") == 0;
	*verb = CTL_VERB_STATUS;
	if (s->n_words > 1)
		snprintf(two, sizeof(two), "%s %s", s->words[0], s->words[1]);
	int taken = *is_top || ctl_verb_parse(s->words[0], verb) ? 1 : ctl_verb_parse(two, verb) ? 2 : 0;
	if (taken == 0)
		return say_unknown_verb(s->words[0], err);
	s->words += taken;
	s->n_words -= taken;
	return ERR_OK;
}

static enum err_code fill_request(struct scan *s, struct ctl_options *o, struct err *err)
{
	struct ctl_request *r = &o->request;
	const struct ctl_verb_info *verb = ctl_verb_info(r->verb);
	const char *name = o->is_top ? "top" : verb->name;
	enum err_code code = ERR_OK;
	if (o->is_top && s->n_args > 0)
		return err_set(err, ERR_INVALID, "top does not take %s", ctl_arg_info(s->args[0])->option);
	if (s->n_words > (int)verb->n_positional)
		return err_set(
			err, ERR_INVALID, "%s: one argument too many: \"%.64s\"", name, s->words[verb->n_positional]);
	for (int i = 0; i < s->n_words && code == ERR_OK; i++)
		code = ctl_request_set(r, verb->positional[i], s->words[i], err);
	for (unsigned i = 0; i < s->n_args && code == ERR_OK; i++)
		code = ctl_request_set(r, s->args[i], s->values[i], err);
	return code == ERR_OK ? ctl_request_check(r, err) : code;
}

static int64_t timeout_of(const struct ctl_request *r)
{
	if (r->verb == CTL_VERB_DRAIN && r->wait)
		return -1;
	return r->verb == CTL_VERB_DOCTOR ? TIMEOUT_DOCTOR_MS : TIMEOUT_MS;
}

enum args_result args_parse(int argc, char **argv, struct ctl_options *o, const char **topic, struct err *err)
{
	struct scan s = {.words = argv};
	enum ctl_verb verb = CTL_VERB_STATUS;
	const char *socket = getenv("SLUICED_CONTROL");
	*o = (struct ctl_options){.socket = socket && *socket ? socket : socket_default, .timeout_ms = TIMEOUT_UNSET};
	*topic = NULL;
	ctl_request_init(&o->request, verb);
	if (scan_words(&s, o, argc, argv, err) != ERR_OK)
		return ARGS_BAD;
	if (s.n_words > 0 && strcmp(s.words[0], "help") == 0) {
		s.help = true;
		s.words++;
		s.n_words--;
	}
	if (s.version)
		return ARGS_VERSION;
	if (s.help && s.n_words == 0)
		return ARGS_HELP;
	if (s.n_words > 0 && is_group_word(s.words[0])) {
		*topic = s.words[0]; /* also to be pointed at when what follows is missing or wrong */
		if (s.help && s.n_words == 1)
			return ARGS_HELP;
	}
	if (take_verb(&s, &verb, &o->is_top, err) != ERR_OK)
		return ARGS_BAD;
	*topic = o->is_top ? "top" : ctl_verb_info(verb)->name;
	if (s.help)
		return ARGS_HELP;
	ctl_request_init(&o->request, verb);
	if (fill_request(&s, o, err) != ERR_OK)
		return ARGS_BAD;
	if (o->is_top && o->json) {
		err_set(err, ERR_INVALID, "top has no --json: use status --json and ls --json");
		return ARGS_BAD;
	}
	if (o->timeout_ms == TIMEOUT_UNSET)
		o->timeout_ms = timeout_of(&o->request);
	if (o->request.verb == CTL_VERB_EVENTS && o->request.follow)
		o->timeout_ms = -1; /* a quiet daemon is a good one */
	return ARGS_RUN;
}

/* ---- help */

static void help_words(struct buf *b, const struct ctl_verb_info *verb)
{
	buf_str(b, verb->name);
	for (unsigned i = 0; i < verb->n_positional; i++)
		buf_printf(b, i < verb->n_required ? " %s" : " [%s]", ctl_arg_info(verb->positional[i])->value);
}

static void help_synopsis(struct buf *b, const struct ctl_verb_info *verb)
{
	help_words(b, verb);
	for (unsigned i = 0; i < CTL_ARG_N; i++) {
		const struct ctl_arg_info *arg = ctl_arg_info((enum ctl_arg)i);
		if (verb->options >> i & 1u)
			buf_printf(b, " [%s%s%s]", arg->option, arg->value ? " " : "", arg->value ? arg->value : "");
	}
}

static void help_line(struct buf *b, const char *option, const char *value, const char *help)
{
	char left[64];
	snprintf(left, sizeof(left), "%s%s%s", option, value ? " " : "", value ? value : "");
	buf_printf(b, "  %-*s  %s\n", ARGS_HELP_TEXT - 4, left, help);
}

static void help_globals(struct buf *b)
{
	buf_str(b, "\nEvery verb:\n");
	for (unsigned i = 0; i < GLOBAL_N; i++)
		help_line(b, globals[i].option, globals[i].value, globals[i].help);
}

/* The verbs of two words whose first is this, or all verbs. */
static bool help_verbs(struct buf *b, const char *first)
{
	struct buf words;
	size_t len = first ? strlen(first) : 0;
	bool any = false;
	buf_init(&words);
	for (unsigned i = 0; i < CTL_VERB_N; i++) {
		const struct ctl_verb_info *verb = ctl_verb_info((enum ctl_verb)i);
		if (first && (strncmp(verb->name, first, len) != 0 || verb->name[len] != ' '))
			continue;
		buf_clear(&words);
		help_words(&words, verb);
		help_line(b, words.data, NULL, verb->help);
		any = true;
	}
	buf_fini(&words);
	return any;
}

static void help_all(struct buf *b)
{
	buf_str(b, "usage: sluicectl [OPTION...] VERB [ARGUMENT...]\n\n");
	help_verbs(b, NULL);
	help_line(b, "top", NULL, "status and the oldest streams, live; q quits");
	help_globals(b);
	buf_str(b,
		"\n`sluicectl help VERB` tells a verb's arguments; sluicectl(1) tells everything.\n"
		"Exit: 0 ok, 1 the answer is no, 64 usage, 69 daemon not reachable, 77 not permitted, 78 rejected.\n");
}

bool args_help(struct buf *b, const char *topic)
{
	enum ctl_verb v;
	if (!topic) {
		help_all(b);
		return true;
	}
	if (strcmp(topic, "top") == 0) {
		buf_str(b,
			"usage: sluicectl top\n  status and the oldest streams, live; q quits, space refreshes now\n");
		help_globals(b);
		return true;
	}
	if (!ctl_verb_parse(topic, &v)) {
		if (!is_group_word(topic))
			return false;
		buf_printf(b, "usage: sluicectl %s ...\n\n", topic);
		help_verbs(b, topic);
		help_globals(b);
		buf_printf(b, "\n`sluicectl help %s WORD` tells a verb's arguments.\n", topic);
		return true;
	}
	const struct ctl_verb_info *verb = ctl_verb_info(v);
	buf_str(b, "usage: sluicectl ");
	help_synopsis(b, verb);
	buf_printf(b, "\n  %s\n\n", verb->help);
	for (unsigned i = 0; i < CTL_ARG_N; i++) {
		const struct ctl_arg_info *arg = ctl_arg_info((enum ctl_arg)i);
		if (verb->options >> i & 1u)
			help_line(b, arg->option, arg->value, arg->help);
	}
	help_globals(b);
	return true;
}
