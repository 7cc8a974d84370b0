#include "lib/test_certs.h"

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { DAY_S = 86400 };

struct wish {
	const char *name, *san;
	bool is_ca;
	long from_s, to_s;
	const char *path;
};

static void must(bool ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "test_certs: %s failed\n", what);
	exit(99);
}

static void extend(X509 *cert, X509 *issuer, int nid, const char *value)
{
	X509V3_CTX ctx;
	X509V3_set_ctx_nodb(&ctx);
	X509V3_set_ctx(&ctx, issuer, cert, NULL, NULL, 0);
	X509_EXTENSION *e = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
	must(e && X509_add_ext(cert, e, -1), "extension");
	X509_EXTENSION_free(e);
}

static X509 *issue(const struct wish *w, X509 *ca, EVP_PKEY *key)
{
	static long serial = 1;
	X509 *cert = X509_new();
	must(cert, "X509_new");
	X509_set_version(cert, 2);
	ASN1_INTEGER_set(X509_get_serialNumber(cert), serial++);
	X509_gmtime_adj(X509_getm_notBefore(cert), w->from_s);
	X509_gmtime_adj(X509_getm_notAfter(cert), w->to_s);
	X509_NAME_add_entry_by_txt(
		X509_get_subject_name(cert), "CN", MBSTRING_ASC, (const unsigned char *)w->name, -1, -1, 0);
	X509 *issuer = ca ? ca : cert;
	X509_set_issuer_name(cert, X509_get_subject_name(issuer));
	X509_set_pubkey(cert, key);
	extend(cert, issuer, NID_basic_constraints, w->is_ca ? "critical,CA:TRUE" : "CA:FALSE");
	if (w->san)
		extend(cert, issuer, NID_subject_alt_name, w->san);
	must(X509_sign(cert, key, EVP_sha256()), "X509_sign");
	FILE *f = fopen(w->path, "w");
	must(f && PEM_write_X509(f, cert), w->path);
	fclose(f);
	return cert;
}

void test_certs_make(struct test_certs *t)
{
	snprintf(t->dir, sizeof(t->dir), "/tmp/sluice-certs.XXXXXX");
	must(mkdtemp(t->dir), "mkdtemp");
	char *const paths[] = {t->ca, t->server, t->other, t->expired, t->client, t->key};
	static const char *const names[] = {"ca", "server", "other", "expired", "client", "key"};
	for (int i = 0; i < 6; i++)
		snprintf(paths[i], sizeof(t->ca), "%s/%s.pem", t->dir, names[i]);
	EVP_PKEY *key = EVP_EC_gen("P-256");
	FILE *f = fopen(t->key, "w");
	must(key && f && PEM_write_PrivateKey(f, key, NULL, NULL, 0, NULL, NULL), "key");
	fclose(f);
	X509 *ca = issue(&(struct wish){"test authority", NULL, true, -DAY_S, DAY_S, t->ca}, NULL, key);
	const struct wish wishes[] = {
		{"server", "DNS:localhost,IP:127.0.0.1", false, -DAY_S, DAY_S, t->server},
		{"other", "DNS:elsewhere.example", false, -DAY_S, DAY_S, t->other},
		{"expired", "DNS:localhost,IP:127.0.0.1", false, -2 * DAY_S, -DAY_S, t->expired},
		{"client", NULL, false, -DAY_S, DAY_S, t->client},
	};
	for (int i = 0; i < 4; i++)
		X509_free(issue(&wishes[i], ca, key));
	X509_free(ca);
	EVP_PKEY_free(key);
}

void test_certs_remove(struct test_certs *t)
{
	char *const paths[] = {t->ca, t->server, t->other, t->expired, t->client, t->key};
	for (int i = 0; i < 6; i++)
		unlink(paths[i]);
	rmdir(t->dir);
}
