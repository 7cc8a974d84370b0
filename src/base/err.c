#include "base/err.h"

#include <stdio.h>
#include <string.h>

enum { TEXT_BYTES = sizeof(((struct err *)NULL)->text) };

/* Copies text, without control characters; a cut never leaves half a UTF-8 character. */
static void err_store(struct err *err, const char *text)
{
	size_t len = strlen(text);
	if (len >= TEXT_BYTES) {
		len = TEXT_BYTES - 1;
		while (len && ((unsigned char)text[len] & 0xC0) == 0x80)
			len--;
	}
	for (size_t i = 0; i < len; i++)
		err->text[i] = (unsigned char)text[i] < ' ' ? ' ' : text[i];
	err->text[len] = '\0';
}

enum err_code err_set(struct err *err, enum err_code code, const char *fmt, ...)
{
	if (!err)
		return code;
	char text[TEXT_BYTES + 4]; /* a copy: the arguments may point into err */
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	err->code = code;
	err_store(err, text);
	return code;
}

enum err_code err_prefix(struct err *err, const char *fmt, ...)
{
	if (!err)
		return ERR_OK;
	char prefix[TEXT_BYTES + 4];
	char text[2 * TEXT_BYTES + 6];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(prefix, sizeof(prefix), fmt, ap);
	va_end(ap);
	snprintf(text, sizeof(text), "%s: %s", prefix, err->text);
	err_store(err, text);
	return err->code;
}
