/* entry_id - the text form of entry ids. Pure; any thread. */
#pragma once
#include "core/frame.h"

/* An id's text: "<ms>-<seq>". Returns its length. */
enum { COMMAND_ID_CAP = 44 };
/* "ms-seq"; returns its length. */
int command_id_format(char out[COMMAND_ID_CAP], struct entry_id id);
/* Exactly "ms-seq" in decimal; false: anything else, *out is unchanged. s need not end in a NUL. */
bool command_id_parse(const char *s, size_t len, struct entry_id *out);
/* The id that a token of 19 digits is made of, as far as it tells; false: anything else, *out is unchanged. */
bool command_token_parse(const char *s, size_t len, struct entry_id *out);
