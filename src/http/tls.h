/* Certificates of the server's TLS listeners (TLS 1.2 and newer), and the making of one's own. */
#pragma once

#include "base/err.h"

struct http_tls;

/* PEM: the certificate with its chain, and its key (unencrypted). -EINVAL where they do not belong together. */
int http_tls_new_from_files(const char *cert_path, const char *key_path, struct http_tls **ret, struct err *err);
/* Reads the files again. New connections get the new certificate; open ones, and the listeners, go on. On failure the old one
 * stays. */
int http_tls_reload(struct http_tls *t, struct err *err);
void http_tls_free(struct http_tls *t); /* after the servers that listen with it; accepts NULL */

#define HTTP_TLS_PIN_MAX 64
/* The pin of its public key, as curl's --pinnedpubkey and http/client.h take it: "sha256//" and base64. */
void http_tls_pin(const struct http_tls *t, char out[HTTP_TLS_PIN_MAX]);

/* Makes a key (ECDSA P-256) and a certificate signed by itself, for the name, localhost, 127.0.0.1 and ::1, valid for ten
 * years; both files 0600, each written atomically, the key first. */
int http_tls_make_self_signed(const char *hostname, const char *cert_path, const char *key_path, struct err *err);
