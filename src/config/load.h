/* load - YAML bytes to the raw settings. libyaml walks the document once and refuses what has no place in a
 * configuration (anchors, tags, second documents, unknown and duplicate keys, a map where a value belongs) while it
 * notes where each value stands; libcyaml then reads the same bytes as strings, by a schema made from the options.
 * Pure; any thread. Promise: time and memory are linear in len. */
#pragma once
#include "config/raw.h"

/* Fills raw. ERR_INVALID, ERR_RANGE with the whole line. */
enum err_code load_yaml(struct raw *raw, const char *bytes, size_t len, struct err *err);
