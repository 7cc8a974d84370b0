/* instant - how people write a point in time: RFC 3339, what date(1) prints, @SECONDS. Any thread; reads the time zone
 * of the process. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

/* 2026-11-30T10:00, 2026-11-30 10:00:00.5, each with Z or an offset like +02:00 at its end, else in local time; or
 * @SECONDS since 1970, with a fraction if need be. *unix_ms is what it says, cut to milliseconds. False, *unix_ms
 * unchanged: it is neither, there is no such day, or it is not after 1970. */
bool instant_parse(const char *text, int64_t *unix_ms);
