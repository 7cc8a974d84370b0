/* codec/reply_sentinel - what a Sentinel answers, and who is asked on its word. Pure; any thread. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct redisReply;

enum { SENTINEL_ADDR = 300, SENTINEL_ROLE = 24 };

/* GET-MASTER-ADDR-BY-NAME: "host:port", "[v6]:port". False: it knows no master of that name, or answers something
 * else. */
bool sentinel_decode_addr(const struct redisReply *r, char out[static SENTINEL_ADDR]);
/* MASTER: the epoch of its configuration; 0 = not told. */
int64_t sentinel_decode_epoch(const struct redisReply *r);
/* SENTINELS: the addresses of the others, at most cap. Returns how many. */
size_t sentinel_decode_peers(const struct redisReply *r, char (*out)[SENTINEL_ADDR], size_t cap);
/* ROLE: its first word, "" = none. */
void sentinel_decode_role(const struct redisReply *r, char out[static SENTINEL_ROLE]);
/* The server's words when it is an error, else NULL. */
const char *sentinel_error(const struct redisReply *r);
/* A message of +switch-master about that master? */
bool sentinel_is_switch(const struct redisReply *push, const char *master);
