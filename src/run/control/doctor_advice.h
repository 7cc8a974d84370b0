/* doctor_advice - what an operator can do about a server's words. Pure; any thread. Texts are constant. */
#pragma once

/* A connection could not be made, or ended: words are those of io/redis, or the server's. */
const char *doctor_connection_advice(const char *words);
/* A write was refused with these words. */
const char *doctor_write_advice(const char *words);
