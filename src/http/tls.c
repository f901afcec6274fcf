#include "http/tls.h"

#include "base/fd.h"
#include "base/str.h"
#include "http/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <openssl/bio.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <string.h>

#define YEARS 10

/* ── reading ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

static void bio_cleanup(BIO **b)
{
        BIO_free(*b);
}
static void x509_cleanup(X509 **x)
{
        X509_free(*x);
}
static void pkey_cleanup(EVP_PKEY **k)
{
        EVP_PKEY_free(*k);
}
#define auto_bio __attribute__((cleanup(bio_cleanup))) BIO
#define auto_x509 __attribute__((cleanup(x509_cleanup))) X509
#define auto_pkey __attribute__((cleanup(pkey_cleanup))) EVP_PKEY

/* Nobody is asked for one. */
static int no_password(char *buf, int size, int writing, void *data)
{
        (void)buf;
        (void)size;
        (void)writing;
        (void)data;
        return -1;
}

/* RFC 7469 section 2.4: of the key as it stands in the certificate. */
static int pin_make(X509 *x, char out[HTTP_TLS_PIN_MAX], struct err *err)
{
        auto_str text = STR_INIT;
        unsigned char digest[EVP_MAX_MD_SIZE], *der = NULL;
        unsigned digest_len = 0;
        int len = i2d_X509_PUBKEY(X509_get_X509_PUBKEY(x), &der), ok;

        ok = len > 0 && EVP_Digest(der, (size_t)len, digest, &digest_len, EVP_sha256(), NULL) == 1;
        OPENSSL_free(der);
        if (!ok || base64_encode(&text, digest, digest_len) < 0)
                return err_oom(err);
        (void)snprintf(out, HTTP_TLS_PIN_MAX, "sha256//%s", text.data);
        return 0;
}

/* RFC 7301: HTTP/1.1 is all that is spoken. */
static int on_alpn(SSL *ssl, const unsigned char **out, unsigned char *out_len, const unsigned char *in,
                   unsigned in_len, void *data)
{
        static const unsigned char ours[] = "\x08http/1.1";
        unsigned char *found = NULL;

        (void)ssl;
        (void)data;
        if (SSL_select_next_proto(&found, out_len, ours, sizeof(ours) - 1, in, in_len) != OPENSSL_NPN_NEGOTIATED)
                return SSL_TLSEXT_ERR_NOACK;
        *out = found;
        return SSL_TLSEXT_ERR_OK;
}

static int ctx_make(const struct http_tls *t, SSL_CTX *ctx, struct err *err)
{
        if (SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION) != 1)
                return err_set(err, EIO, "TLS 1.2 is not supported");
        (void)SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_IGNORE_UNEXPECTED_EOF |
                                               SSL_OP_CIPHER_SERVER_PREFERENCE);
        (void)SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                            SSL_MODE_RELEASE_BUFFERS);
        /* Sessions are the client's to keep, in tickets: 20,000 of them in memory would be anybody's to fill. */
        (void)SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
        SSL_CTX_set_alpn_select_cb(ctx, on_alpn, NULL);
        SSL_CTX_set_default_passwd_cb(ctx, no_password);
        if (SSL_CTX_use_certificate_chain_file(ctx, t->cert_path) != 1)
                return err_set(err, EINVAL, "%s: no certificate in PEM: %s", t->cert_path,
                               ERR_reason_error_string(ERR_peek_last_error()) ?: "unknown");
        if (SSL_CTX_use_PrivateKey_file(ctx, t->key_path, SSL_FILETYPE_PEM) != 1)
                return err_set(err, EINVAL, "%s: no key in PEM that is not encrypted and belongs to %s", t->key_path,
                               t->cert_path);
        return SSL_CTX_check_private_key(ctx) == 1
                       ? 0
                       : err_set(err, EINVAL, "%s: the key belongs to another certificate", t->key_path);
}

static int tls_load(struct http_tls *t, struct err *err)
{
        SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
        char pin[HTTP_TLS_PIN_MAX];
        int r;

        if (!ctx)
                return err_oom(err);
        r = ctx_make(t, ctx, err);
        if (r == 0)
                r = pin_make(SSL_CTX_get0_certificate(ctx), pin, err);
        ERR_clear_error();
        if (r < 0) {
                SSL_CTX_free(ctx);
                return r;
        }
        /* Open connections hold the old one. */
        SSL_CTX_free(t->ctx);
        t->ctx = ctx;
        memcpy(t->pin, pin, sizeof(pin));
        return 0;
}

int http_tls_new_from_files(const char *cert_path, const char *key_path, struct http_tls **ret, struct err *err)
{
        struct http_tls *t;
        int r;

        t = calloc(1, sizeof(*t));
        if (!t)
                return err_oom(err);
        t->cert_path = strdup(cert_path);
        t->key_path = strdup(key_path);
        r = t->cert_path && t->key_path ? tls_load(t, err) : err_oom(err);
        if (r < 0) {
                http_tls_free(t);
                return r;
        }
        *ret = t;
        return 0;
}

int http_tls_reload(struct http_tls *t, struct err *err)
{
        return tls_load(t, err);
}

void http_tls_free(struct http_tls *t)
{
        if (!t)
                return;
        SSL_CTX_free(t->ctx);
        free(t->cert_path);
        free(t->key_path);
        free(t);
}

void http_tls_pin(const struct http_tls *t, char out[HTTP_TLS_PIN_MAX])
{
        memcpy(out, t->pin, HTTP_TLS_PIN_MAX);
}

/* ── making ────────────────────────────────────────────────────────────────────────────────────────────────────────── */

static bool name_valid(const char *name)
{
        size_t len = strlen(name);

        return len > 0 && len <= 253 &&
               strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._") == len;
}

static bool extension_add(X509 *x, int nid, const char *value)
{
        X509V3_CTX ctx;
        X509_EXTENSION *extension;
        bool ok;

        X509V3_set_ctx_nodb(&ctx);
        X509V3_set_ctx(&ctx, x, x, NULL, NULL, 0);
        extension = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
        ok = extension && X509_add_ext(x, extension, -1) == 1;
        X509_EXTENSION_free(extension);
        return ok;
}

static bool serial_set(X509 *x)
{
        unsigned char bytes[16];
        BIGNUM *n;
        bool ok;

        if (RAND_bytes(bytes, sizeof(bytes)) != 1)
                return false;
        bytes[0] &= 0x7f;
        n = BN_bin2bn(bytes, sizeof(bytes), NULL);
        ok = n && BN_to_ASN1_INTEGER(n, X509_get_serialNumber(x));
        BN_free(n);
        return ok;
}

/* RFC 5280 section 4. It signs itself, so that a client may take it for its root. */
static bool certificate_fill(X509 *x, EVP_PKEY *key, const char *hostname)
{
        auto_free char *names = str_printf("DNS:%s,%sIP:127.0.0.1,IP:::1", hostname,
                                           str_eq(hostname, "localhost") ? "" : "DNS:localhost,");
        X509_NAME *name = X509_get_subject_name(x);
        /* A common name has at most 64 characters; the names that count stand in the extension. */
        const char *common = strlen(hostname) <= 64 ? hostname : "mayfly";

        return names && X509_set_version(x, X509_VERSION_3) == 1 && serial_set(x) &&
               X509_gmtime_adj(X509_getm_notBefore(x), -3600) &&
               X509_time_adj_ex(X509_getm_notAfter(x), YEARS * 365, 0, NULL) &&
               X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)common, -1, -1, 0) == 1 &&
               X509_set_issuer_name(x, name) == 1 && X509_set_pubkey(x, key) == 1 &&
               extension_add(x, NID_basic_constraints, "critical,CA:TRUE,pathlen:0") &&
               extension_add(x, NID_key_usage, "critical,digitalSignature,keyCertSign") &&
               extension_add(x, NID_ext_key_usage, "serverAuth") &&
               extension_add(x, NID_subject_key_identifier, "hash") && extension_add(x, NID_subject_alt_name, names) &&
               X509_sign(x, key, EVP_sha256()) > 0;
}

static int file_write(const char *path, BIO *pem, struct err *err)
{
        const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
        auto_free char *dir = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
        auto_fd dirfd = -EBADF;
        char *data = NULL;
        long len = BIO_get_mem_data(pem, &data);

        if (!dir)
                return err_oom(err);
        dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (dirfd < 0)
                return err_sys(err, "open %s", dir);
        return fd_write_file(dirfd, name, 0600, data, (size_t)len, err);
}

int http_tls_make_self_signed(const char *hostname, const char *cert_path, const char *key_path, struct err *err)
{
        auto_bio *cert_pem = BIO_new(BIO_s_mem());
        auto_bio *key_pem = BIO_new(BIO_s_secmem());
        auto_pkey *key = EVP_EC_gen("P-256");
        auto_x509 *x = X509_new();
        int r;

        if (!name_valid(hostname))
                return err_set(err, EINVAL, "'%s' is no host name", hostname);
        if (!cert_pem || !key_pem || !key || !x || !certificate_fill(x, key, hostname) ||
            PEM_write_bio_X509(cert_pem, x) != 1 ||
            PEM_write_bio_PKCS8PrivateKey(key_pem, key, NULL, NULL, 0, NULL, NULL) != 1) {
                ERR_clear_error();
                return err_set(err, EIO, "the certificate cannot be made");
        }
        r = file_write(key_path, key_pem, err);
        return r < 0 ? r : file_write(cert_path, cert_pem, err);
}
