/* Sealing: what is secret goes to disk encrypted and authenticated, with a key of this node that lies in a file of its own,
 * so that neither the database nor a copy of it tells anything. AES-256-GCM (NIST SP 800-38D) by OpenSSL.
 *
 * A sealed text is: one byte of version, 24 random bytes, the ciphertext, 16 bytes of tag. The first half of the random bytes
 * makes the message's own key out of the node's (HMAC-SHA-256), the second half is the nonce: random nonces under one key would
 * be good for 2^32 messages only (section 8.3), which a busy node seals in weeks.
 *
 * Functions but seal_new() touch no disk, take some microseconds, and may be called from any thread. */
#pragma once

#include "base/err.h"
#include "base/str.h"

#include <stddef.h>

struct seal;

#define SEAL_OVERHEAD 41
#define SEAL_CONTEXT_MAX 255

/* Reads the key (32 bytes, mode 0600), or makes it where there is no such file: written, fsynced and then given its name, so
 * that a key is whole or not there. Blocks. -EBADMSG: the file is no key; -EPERM: others may read it. */
int seal_new(const char *keyfile, struct seal **ret, struct err *err);
void seal_free(struct seal *s); /* wipes the key; accepts NULL */

/* Appends the sealed text. The context ("task 01h… request") is authenticated and not stored: what is sealed for one place
 * does not open in another. -E2BIG, -ENOMEM, -EIO. */
int seal_seal(const struct seal *s, const char *context, const void *data, size_t len, struct str *out);

/* Appends the plain text, which the caller wipes: seal_wipe(). -EBADMSG: changed, cut, of another key or another context; then
 * nothing was appended. */
int seal_open(const struct seal *s, const char *context, const void *data, size_t len, struct str *out);

/* Overwrites all of the buffer's memory and frees it. */
void seal_wipe(struct str *s);
#define auto_secret __attribute__((cleanup(seal_wipe))) struct str
