/* log_fields - key=value in the text of a log line: how a value is written, and how it is found again. Pure; any
 * thread. */
#pragma once
#include "base/buf.h"
#include <stddef.h>

/* A value of a line's key=value as it is written: as it is, or in quotes with \ before " and \ when it is empty or
 * holds a space, a quote, a backslash or a control character (which becomes '?'). Cut to FIELD_VALUE_MAX bytes of
 * UTF-8. Returns out. */
enum { FIELD_VALUE_MAX = 200, FIELD_VALUE_CAP = 2 * FIELD_VALUE_MAX + 8 };
/* s as the value of a log field: in quotes when it has blanks, cut at FIELD_VALUE_MAX bytes. Returns out. */
const char *field_value(char out[static FIELD_VALUE_CAP], const char *s, size_t len);
/* Appends ,"key":value for every key=value of the text, which a word begins with; the first of one name counts, and
 * time, level and msg are not to be had. Whole numbers of at most 15 digits become numbers, the rest strings. */
void log_fields_json(struct buf *out, const char *text, size_t len);
