/* Happy path: redis_tls_new loads the files once; each connection makes a session of it, names the peer, and moves
 * bytes between two memory BIOs and OpenSSL. Failure: every one becomes one sentence: OpenSSL's verify result first
 * (expired, other name, self-signed …), else the first entry of its error queue, cleared before each call. */
#include "io/redis/tls.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"

struct redis_tls {
	atomic_int n_refs;
	SSL_CTX *ctx;
	char *server_name;
	unsigned char digest[32]; /* of the files' contents */
};

struct tls_session {
	SSL *ssl;
	BIO *in, *out;  /* the SSL's */
	char name[256]; /* that the certificate must carry */
	char day[16];   /* where the refused certificate's time begins or ends: 2026-11-22 */
};

/* ---- material */

static const char *queue_text(void)
{
	unsigned long e = ERR_get_error();
	const char *text = e ? ERR_reason_error_string(e) : NULL;
	if (e && ERR_SYSTEM_ERROR(e) && ERR_GET_REASON(e) == ENOMEM)
		mem_exhausted(); /* libc had none for a file */
	if (!text && e && ERR_SYSTEM_ERROR(e))
		text = strerror(ERR_GET_REASON(e));
	return text ? text : "unknown reason";
}

/* ---- why not, in the words of an operator */

static void put_day(char out[16], const ASN1_TIME *t)
{
	struct tm tm;
	if (t && ASN1_TIME_to_tm(t, &tm) == 1)
		strftime(out, 16, "%Y-%m-%d", &tm);
}

/* Changes nothing: remembers of a refused certificate what is gone when the handshake has failed. */
static int on_verify(int is_good, X509_STORE_CTX *x)
{
	SSL *ssl = X509_STORE_CTX_get_ex_data(x, SSL_get_ex_data_X509_STORE_CTX_idx());
	struct tls_session *s = ssl ? SSL_get_app_data(ssl) : NULL;
	const X509 *cert = X509_STORE_CTX_get_current_cert(x);
	if (is_good || !s || !cert)
		return is_good;
	if (X509_STORE_CTX_get_error(x) == X509_V_ERR_CERT_HAS_EXPIRED)
		put_day(s->day, X509_get0_notAfter(cert));
	else if (X509_STORE_CTX_get_error(x) == X509_V_ERR_CERT_NOT_YET_VALID)
		put_day(s->day, X509_get0_notBefore(cert));
	return is_good;
}

static void certificate_refused(const struct tls_session *s, const char *when, long verify, struct err *err)
{
	const char *why = X509_verify_cert_error_string(verify), *hint = "", *word = "";
	switch (verify) {
	case X509_V_ERR_HOSTNAME_MISMATCH:
	case X509_V_ERR_IP_ADDRESS_MISMATCH:
		hint = ": it is not for ";
		word = s->name;
		break;
	case X509_V_ERR_CERT_HAS_EXPIRED:
		hint = " on ";
		word = s->day;
		break;
	case X509_V_ERR_CERT_NOT_YET_VALID:
		hint = " before ";
		word = s->day;
		break;
	case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
	case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
	case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
	case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
	case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
	case X509_V_ERR_CERT_UNTRUSTED:
		hint = ": unknown authority, see redis.tls.ca_file";
		break;
	default:
		break;
	}
	err_set(err, ERR_DENIED, "%s: the server's certificate is not accepted: %s%s%s", when, why, hint, word);
}

/* What the reason in OpenSSL's queue means here; "" when its words say it. */
static const char *alert_hint(unsigned long e)
{
	if (ERR_GET_LIB(e) != ERR_LIB_SSL)
		return "";
	switch (ERR_GET_REASON(e)) {
	case SSL_R_TLSV1_ALERT_PROTOCOL_VERSION:
	case SSL_R_UNSUPPORTED_PROTOCOL:
		return ": TLS 1.2 or newer is needed";
	case SSL_R_TLSV13_ALERT_CERTIFICATE_REQUIRED:
		return ": the server wants a client certificate, see redis.tls.cert_file";
	case SSL_R_TLSV1_ALERT_UNKNOWN_CA:
	case SSL_R_SSLV3_ALERT_BAD_CERTIFICATE:
	case SSL_R_SSLV3_ALERT_CERTIFICATE_EXPIRED:
	case SSL_R_SSLV3_ALERT_CERTIFICATE_REVOKED:
	case SSL_R_SSLV3_ALERT_CERTIFICATE_UNKNOWN:
	case SSL_R_SSLV3_ALERT_UNSUPPORTED_CERTIFICATE:
		return ": the server does not accept our certificate, see redis.tls.cert_file";
	default:
		return "";
	}
}

/* Adds its contents to md: an unreadable file gets its own sentence, and a changed one is known as such. */
static enum err_code tls_look_at(const char *what, const char *path, EVP_MD_CTX *md, struct err *err)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		enum err_code code = errno == EACCES || errno == EPERM ? ERR_DENIED : ERR_NOT_FOUND;
		return err_set(err, code, "%s: %s: %s", what, path, strerror(errno));
	}
	char bytes[4096];
	EVP_DigestUpdate(md, what, strlen(what) + 1);
	for (ssize_t n; (n = read(fd, bytes, sizeof bytes)) > 0;)
		EVP_DigestUpdate(md, bytes, (size_t)n);
	mem_wipe(bytes, sizeof bytes);
	close(fd);
	return ERR_OK;
}

/* A key with a passphrase is refused, never asked for on the terminal. */
static int no_passphrase(char *out, int cap, int is_writing, void *arg)
{
	(void)out;
	(void)cap;
	(void)is_writing;
	(void)arg;
	return 0;
}

static enum err_code load_ca(SSL_CTX *ctx, const char *file, EVP_MD_CTX *md, struct err *err)
{
	if (!*file) {
		if (SSL_CTX_set_default_verify_paths(ctx) == 1)
			return ERR_OK;
		return err_set(err, ERR_INVALID, "tls: the system's certificates cannot be loaded: %s", queue_text());
	}
	enum err_code code = tls_look_at("redis.tls.ca_file", file, md, err);
	if (code)
		return code;
	if (SSL_CTX_load_verify_locations(ctx, file, NULL) != 1)
		return err_set(
			err, ERR_INVALID, "redis.tls.ca_file: %s: no usable certificate: %s", file, queue_text());
	return ERR_OK;
}

static enum err_code load_own(SSL_CTX *ctx, const struct redis_tls_files *f, EVP_MD_CTX *md, struct err *err)
{
	if (!*f->cert_file && !*f->key_file)
		return ERR_OK;
	if (!*f->cert_file || !*f->key_file)
		return err_set(err, ERR_INVALID, "tls: cert_file and key_file belong together, only %s is set",
			*f->cert_file ? "cert_file" : "key_file");
	enum err_code code = tls_look_at("redis.tls.cert_file", f->cert_file, md, err);
	if (!code)
		code = tls_look_at("redis.tls.key_file", f->key_file, md, err);
	if (code)
		return code;
	if (SSL_CTX_use_certificate_chain_file(ctx, f->cert_file) != 1)
		return err_set(err, ERR_INVALID, "redis.tls.cert_file: %s: no usable certificate: %s", f->cert_file,
			queue_text());
	if (SSL_CTX_use_PrivateKey_file(ctx, f->key_file, SSL_FILETYPE_PEM) != 1)
		return err_set(err, ERR_INVALID, "redis.tls.key_file: %s: no usable key for %s: %s", f->key_file,
			f->cert_file, queue_text());
	return ERR_OK;
}

enum err_code redis_tls_new(const struct redis_tls_files *given, struct redis_tls **out, struct err *err)
{
	struct redis_tls_files f = *given;
	f.ca_file = f.ca_file ? f.ca_file : "";
	f.cert_file = f.cert_file ? f.cert_file : "";
	f.key_file = f.key_file ? f.key_file : "";
	ERR_clear_error();
	SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
	EVP_MD_CTX *md = EVP_MD_CTX_new();
	if (!ctx || !md || EVP_DigestInit_ex(md, EVP_sha256(), NULL) != 1) {
		SSL_CTX_free(ctx);
		EVP_MD_CTX_free(md);
		return err_set(err, ERR_MEMORY, "tls: %s", queue_text());
	}
	SSL_CTX_set_default_passwd_cb(ctx, no_passphrase);
	SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION);
	SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, on_verify);
	SSL_CTX_set_mode(
		ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
	enum err_code code = load_ca(ctx, f.ca_file, md, err);
	if (!code)
		code = load_own(ctx, &f, md, err);
	ERR_clear_error();
	unsigned char digest[32] = {0};
	EVP_DigestFinal_ex(md, digest, NULL);
	EVP_MD_CTX_free(md);
	if (code) {
		SSL_CTX_free(ctx);
		return code;
	}
	struct redis_tls *t = mem_alloc(sizeof(*t));
	atomic_init(&t->n_refs, 1);
	t->ctx = ctx;
	memcpy(t->digest, digest, sizeof t->digest);
	t->server_name = mem_printf("%s", f.server_name ? f.server_name : "");
	*out = t;
	return ERR_OK;
}

bool redis_tls_same_files(const struct redis_tls *a, const struct redis_tls *b)
{
	return memcmp(a->digest, b->digest, sizeof a->digest) == 0;
}

struct redis_tls *redis_tls_ref(struct redis_tls *t)
{
	if (t)
		atomic_fetch_add_explicit(&t->n_refs, 1, memory_order_relaxed);
	return t;
}

void redis_tls_unref(struct redis_tls *t)
{
	if (!t || atomic_fetch_sub_explicit(&t->n_refs, 1, memory_order_acq_rel) != 1)
		return;
	SSL_CTX_free(t->ctx);
	mem_free(t->server_name);
	mem_free(t);
}

/* ---- one session */

static bool expect_name(SSL *ssl, const char *name)
{
	unsigned char ip[16];
	bool is_ip = inet_pton(AF_INET, name, ip) == 1 || inet_pton(AF_INET6, name, ip) == 1;
	if (is_ip)
		return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), name) == 1;
	SSL_set_hostflags(ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
	return SSL_set1_host(ssl, name) == 1 && SSL_set_tlsext_host_name(ssl, name) == 1;
}

/* "redis.example." is how a resolver is told that nothing is to be added; no certificate has the dot, nor may SNI. */
static void without_root_dot(char *name)
{
	size_t n = strlen(name);
	if (n > 1 && name[n - 1] == '.')
		name[n - 1] = '\0';
}

enum err_code tls_session_new(struct redis_tls *tls, const char *name, struct tls_session **out, struct err *err)
{
	if (*tls->server_name)
		name = tls->server_name;
	if (!*name) /* OpenSSL would take it as "do not check" */
		return err_set(
			err, ERR_INVALID, "TLS: no name to verify the server's certificate against (tls.server_name)");
	ERR_clear_error();
	struct tls_session *s = mem_alloc(sizeof(*s));
	s->ssl = SSL_new(tls->ctx);
	s->in = BIO_new(BIO_s_mem());
	s->out = BIO_new(BIO_s_mem());
	if (!s->ssl || !s->in || !s->out) {
		BIO_free(s->in);
		BIO_free(s->out);
		SSL_free(s->ssl);
		mem_free(s);
		return err_set(err, ERR_MEMORY, "TLS: %s", queue_text());
	}
	SSL_set_bio(s->ssl, s->in, s->out);
	SSL_set_app_data(s->ssl, s);
	snprintf(s->name, sizeof(s->name), "%s", name);
	without_root_dot(s->name);
	SSL_set_connect_state(s->ssl);
	if (!expect_name(s->ssl, s->name)) {
		tls_session_free(s);
		return err_set(err, ERR_INVALID, "TLS: %s is not a name that can be verified", name);
	}
	*out = s;
	return ERR_OK;
}

void tls_session_free(struct tls_session *s)
{
	if (!s)
		return;
	SSL_free(s->ssl); /* with both BIOs */
	mem_free(s);
}

void tls_feed(struct tls_session *s, const char *bytes, size_t len)
{
	while (len > 0) {
		int n = BIO_write(s->in, bytes, (int)(len < INT_MAX ? len : INT_MAX));
		if (n <= 0)
			/* never: a memory BIO takes all. The session would miss bytes and fail its integrity check */
			return;
		bytes += n;
		len -= (size_t)n;
	}
}

void tls_take(struct tls_session *s, struct buf *out)
{
	char *bytes;
	long n = BIO_get_mem_data(s->out, &bytes);
	if (n <= 0)
		return;
	buf_add(out, bytes, (size_t)n);
	(void)BIO_reset(s->out);
}

/* What an SSL call that returned rc means: 0 = needs more bytes, -1 = failed. */
static int outcome(struct tls_session *s, int rc, const char *when, struct err *err)
{
	switch (SSL_get_error(s->ssl, rc)) {
	case SSL_ERROR_WANT_READ:
	case SSL_ERROR_WANT_WRITE:
		return 0;
	case SSL_ERROR_ZERO_RETURN:
		err_set(err, ERR_IO, "the server closed the connection");
		return -1;
	default:
		break;
	}
	long verify = SSL_get_verify_result(s->ssl);
	unsigned long e = ERR_peek_error();
	if (verify != X509_V_OK)
		certificate_refused(s, when, verify, err);
	else
		err_set(err, ERR_PROTO, "%s: %s%s", when, queue_text(), alert_hint(e));
	ERR_clear_error();
	return -1;
}

int tls_handshake(struct tls_session *s, struct err *err)
{
	ERR_clear_error();
	int rc = SSL_do_handshake(s->ssl);
	return rc == 1 ? 1 : outcome(s, rc, "TLS handshake", err);
}

int tls_read(struct tls_session *s, char *out, size_t cap, struct err *err)
{
	ERR_clear_error();
	int n = SSL_read(s->ssl, out, (int)(cap < INT_MAX ? cap : INT_MAX));
	return n > 0 ? n : outcome(s, n, "TLS", err);
}

int tls_write(struct tls_session *s, const char *bytes, size_t len, struct err *err)
{
	ERR_clear_error();
	int n = SSL_write(s->ssl, bytes, (int)(len < INT_MAX ? len : INT_MAX));
	return n > 0 ? n : outcome(s, n, "TLS", err);
}

void tls_bye(struct tls_session *s)
{
	ERR_clear_error();
	if (SSL_is_init_finished(s->ssl))
		SSL_shutdown(s->ssl);
	ERR_clear_error();
}
