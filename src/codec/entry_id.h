/* entry_id - the text form of entry ids. Pure; any thread. */
#pragma once
#include "core/frame.h"

/* An id's text: "<ms>-<seq>". Returns its length. */
enum { COMMAND_ID_CAP = 44 };
int command_id_format(char out[COMMAND_ID_CAP], struct entry_id id);
bool command_id_parse(const char *s, size_t len, struct entry_id *out);
