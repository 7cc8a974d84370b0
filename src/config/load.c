#include "config/load.h"
#include "config/load_p.h"
#include "config/text.h"

enum err_code load_yaml(struct raw *raw, const char *bytes, size_t len, struct err *err)
{
	size_t bad = text_bad_byte(bytes, len);
	if (bad < len) {
		unsigned line, column;
		text_position(bytes, bad, &line, &column);
		return err_set(err, ERR_INVALID, "%s:%u:%u: yaml: %s", raw->name, line, column,
			bytes[bad] ? "bytes that are not UTF-8" : "a NUL byte");
	}
	enum err_code rc = load_structure(raw, bytes, len, err);
	return rc || raw->is_empty ? rc : load_values(raw, bytes, len, err);
}
