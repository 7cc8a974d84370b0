/* test_certs - a throw-away certificate authority in a directory of its own, for TLS tests. */
#pragma once

struct test_certs {
	char dir[64];
	char ca[96];      /* the authority */
	char server[96];  /* DNS:localhost, IP:127.0.0.1 */
	char other[96];   /* DNS:elsewhere.example only */
	char expired[96]; /* as server, but yesterday's */
	char client[96];
	char key[96]; /* of all of them */
};

void test_certs_make(struct test_certs *t);
void test_certs_remove(struct test_certs *t);
