#include "config/config.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/mem.h"
#include "config/check.h"
#include "config/env.h"
#include "config/load.h"
#include "config/raw.h"
#include "config/value.h"

enum { MAX_FILE_BYTES = 1 << 20 };

extern char **environ;

/* ---- raw settings to a config */

static void *config_base_of(struct config *c, enum option_id id, size_t service)
{
	return option_is_service(id) ? (void *)&c->services[service] : (void *)c;
}

static enum err_code store_list(struct config *c, struct place at, const struct raw_value *v, struct err *err)
{
	size_t bad;
	enum err_code rc = value_store_list(&options[at.id], v->items, v->n_items, c, &bad, err);
	at.item = bad < v->n_items ? bad : RAW_WHOLE;
	return rc ? raw_blame(c->raw, &at, err) : ERR_OK;
}

static enum err_code config_store(struct config *c, struct place at, struct err *err)
{
	const struct raw_value *v = raw_value_const(c->raw, at.id, at.service);
	void *base = config_base_of(c, at.id, at.service);
	if (v->from.kind == ORIGIN_DEFAULT)
		value_store_default(&options[at.id], base);
	else if (option_is_list(at.id))
		return store_list(c, at, v, err);
	else if (value_store(&options[at.id], v->text, base, err) != ERR_OK)
		return raw_blame(c->raw, &at, err);
	return ERR_OK;
}

static enum err_code store_all(struct config *c, struct err *err)
{
	enum err_code rc = ERR_OK;
	for (enum option_id id = 0; rc == ERR_OK && id < N_OPTIONS; id++) {
		size_t n = option_is_service(id) ? c->n_services : 1;
		for (size_t i = 0; rc == ERR_OK && i < n; i++)
			rc = config_store(c, (struct place){.id = id, .service = i, .item = RAW_WHOLE}, err);
	}
	return rc;
}

/* Takes raw over, also on failure. */
static enum err_code build(struct raw *raw, char *const *env, struct config **out, struct err *err)
{
	struct config *c = mem_alloc(sizeof *c);
	c->raw = raw;
	c->n_services = raw->n_services;
	c->services = mem_array(raw->n_services, sizeof *c->services);
	enum err_code rc = store_all(c, err);
	if (rc == ERR_OK)
		rc = check_config(c, env, err);
	if (rc == ERR_OK)
		*out = c;
	else
		config_free(c);
	return rc;
}

void config_free(struct config *c)
{
	if (!c)
		return;
	for (enum option_id id = 0; id < N_OPTIONS; id++) {
		size_t n = option_is_service(id) ? c->n_services : 1;
		for (size_t i = 0; i < n; i++)
			value_release(&options[id], config_base_of(c, id, i));
	}
	mem_free(c->services);
	raw_free(c->raw);
	mem_free(c);
}

/* ---- loading */

enum err_code config_load_bytes(
	const char *name, const char *bytes, size_t len, char *const *env, struct config **out, struct err *err)
{
	struct err unused;
	if (!err)
		err = &unused;
	if (len > MAX_FILE_BYTES)
		return err_set(err, ERR_MEMORY, "%.200s: larger than %d bytes", name, MAX_FILE_BYTES);
	struct raw *raw = raw_new(name);
	enum err_code rc = load_yaml(raw, bytes, len, err);
	if (rc == ERR_OK)
		rc = env_apply(raw, env, err);
	if (rc == ERR_OK)
		rc = check_services(raw, err);
	if (rc == ERR_OK)
		return build(raw, env, out, err);
	raw_free(raw);
	return rc;
}

static enum err_code config_errno_code(int e)
{
	if (e == ENOENT || e == ENOTDIR)
		return ERR_NOT_FOUND;
	return e == EACCES || e == EPERM ? ERR_DENIED : ERR_IO;
}

/* Appends at most limit bytes; a longer file is ERR_MEMORY. O_NONBLOCK: a FIFO must not hold the daemon. */
static enum err_code read_file(const char *path, size_t limit, struct buf *out, struct err *err)
{
	enum err_code rc = ERR_OK;
	struct stat st;
	char chunk[4096];
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0)
		return err_set(err, config_errno_code(errno), "%.300s: %s", path, strerror(errno));
	if (fstat(fd, &st) == 0 && S_ISDIR(st.st_mode))
		rc = err_set(err, ERR_INVALID, "%.300s: is a directory", path);
	while (rc == ERR_OK) {
		ssize_t n = read(fd, chunk, sizeof chunk);
		if (n == 0)
			break;
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			rc = err_set(err, config_errno_code(errno), "%.300s: %s", path, strerror(errno));
		else if (out->len + (size_t)n > limit)
			rc = err_set(err, ERR_MEMORY, "%.300s: larger than %zu bytes", path, limit);
		else
			buf_add(out, chunk, (size_t)n);
	}
	close(fd);
	return rc;
}

enum err_code config_load(const char *path, struct config **out, struct err *err)
{
	struct buf bytes;
	buf_init(&bytes);
	enum err_code rc = read_file(path, MAX_FILE_BYTES, &bytes, err);
	if (rc == ERR_OK)
		rc = config_load_bytes(path, bytes.data ? bytes.data : "", bytes.len, environ, out, err);
	buf_fini(&bytes);
	return rc;
}

int config_exit_status(enum err_code code)
{
	switch (code) {
	case ERR_OK:
		return 0;
	case ERR_NOT_FOUND:
		return 66;
	case ERR_DENIED:
		return 77;
	case ERR_IO:
	case ERR_TIMEOUT:
	case ERR_BUSY:
		return 71;
	case ERR_INVALID:
	case ERR_RANGE:
	case ERR_MEMORY:
	case ERR_PROTO:
		break;
	}
	return 78;
}

bool config_odd_name(const struct config *c, size_t i, char out[static CONFIG_ODD_NAME])
{
	static const char *const ends[] = {"-input", "-group", "-input-dlq"};
	const char *name = c->services[i].name;
	size_t len = strlen(name);
	for (size_t k = 0; k < sizeof ends / sizeof ends[0]; k++) {
		size_t n = strlen(ends[k]);
		if (len <= n || strcmp(name + len - n, ends[k]) != 0)
			continue;
		snprintf(out, CONFIG_ODD_NAME,
			"services[%zu].name: service %.80s reads the stream %.80s-input (did you mean %.*s?)", i, name,
			name, (int)(len - n < 80 ? len - n : 80), name);
		return true;
	}
	return false;
}

enum err_code config_place(const struct config *c, struct err *err)
{
	const char *colon = strstr(err->text, ": ");
	size_t len = colon ? (size_t)(colon - err->text) : 0;
	for (enum option_id id = 0; id < N_OPTIONS; id++) {
		if (option_is_service(id) || strlen(options[id].path) != len ||
			memcmp(options[id].path, err->text, len) != 0)
			continue;
		memmove(err->text, colon + 2, strlen(colon + 2) + 1);
		return raw_blame(c->raw, &(struct place){.id = id, .item = RAW_WHOLE}, err);
	}
	return err->code;
}
