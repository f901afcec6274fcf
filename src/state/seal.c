#include "state/seal.h"

#include "base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define SEAL_VERSION 1
#define SEAL_KEY_LEN 32
#define SEAL_SALT_LEN 12
#define SEAL_NONCE_LEN 12
#define SEAL_TAG_LEN 16
#define SEAL_HEAD_LEN (1 + SEAL_SALT_LEN + SEAL_NONCE_LEN)
#define SEAL_LEN_MAX ((size_t)1 << 30)

_Static_assert(SEAL_OVERHEAD == SEAL_HEAD_LEN + SEAL_TAG_LEN, "the header tells the overhead");

struct seal {
        uint8_t key[SEAL_KEY_LEN];
};

/* ── the key ─────────────────────────────────────────────────────────────────────────────────────────────────────── */

static int key_make(const char *keyfile, struct seal *s, struct err *err)
{
        if (RAND_priv_bytes(s->key, sizeof(s->key)) != 1)
                return err_set(err, EIO, "no random bytes for the key '%s'", keyfile);
        return fd_write_file(AT_FDCWD, keyfile, 0600, s->key, sizeof(s->key), err);
}

static int key_read(int fd, const char *keyfile, struct seal *s, struct err *err)
{
        struct stat st;

        if (fstat(fd, &st) < 0)
                return err_sys(err, "stat '%s'", keyfile);
        if (!S_ISREG(st.st_mode) || st.st_size != SEAL_KEY_LEN)
                return err_set(err, EBADMSG, "'%s' is no key of %d bytes", keyfile, SEAL_KEY_LEN);
        if (st.st_mode & 077)
                return err_set(err, EPERM, "'%s' is open to others (mode %04o): it must be 0600", keyfile,
                               (unsigned)st.st_mode & 07777);
        if (fd_read_full(fd, s->key, sizeof(s->key)) < 0)
                return err_sys(err, "read '%s'", keyfile);
        return 0;
}

int seal_new(const char *keyfile, struct seal **ret, struct err *err)
{
        auto_fd fd = -EBADF;
        struct seal *s;
        int r;

        s = calloc(1, sizeof(*s));
        if (!s)
                return err_oom(err);
        fd = open(keyfile, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
        if (fd >= 0)
                r = key_read(fd, keyfile, s, err);
        else if (errno == ENOENT)
                r = key_make(keyfile, s, err);
        else
                r = err_sys(err, "open '%s'", keyfile);
        if (r < 0) {
                seal_free(s);
                return r;
        }
        *ret = s;
        return 0;
}

void seal_free(struct seal *s)
{
        if (!s)
                return;
        OPENSSL_cleanse(s, sizeof(*s));
        free(s);
}

/* ── sealing and opening ─────────────────────────────────────────────────────────────────────────────────────────── */

/* The key of one message. */
static int message_key(const struct seal *s, const uint8_t *salt, uint8_t out[SEAL_KEY_LEN])
{
        uint8_t info[12 + SEAL_SALT_LEN] = "mayfly seal";
        unsigned len = SEAL_KEY_LEN;

        memcpy(info + 12, salt, SEAL_SALT_LEN);
        return HMAC(EVP_sha256(), s->key, SEAL_KEY_LEN, info, sizeof(info), out, &len) ? 0 : -EIO;
}

/* Key, nonce and context are set; data may follow. NULL: the library failed. */
static EVP_CIPHER_CTX *cipher_new(const struct seal *s, const char *context, const uint8_t *head, bool encrypt)
{
        EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
        uint8_t key[SEAL_KEY_LEN];
        int ok = c && message_key(s, head + 1, key) == 0, n;

        if (ok)
                ok = EVP_CipherInit_ex(c, EVP_aes_256_gcm(), NULL, key, head + 1 + SEAL_SALT_LEN, encrypt) == 1 &&
                     EVP_CipherUpdate(c, NULL, &n, head, 1) == 1 &&
                     EVP_CipherUpdate(c, NULL, &n, (const uint8_t *)context, (int)strlen(context)) == 1;
        OPENSSL_cleanse(key, sizeof(key));
        if (!ok) {
                EVP_CIPHER_CTX_free(c);
                return NULL;
        }
        return c;
}

int seal_seal(const struct seal *s, const char *context, const void *data, size_t len, struct str *out)
{
        uint8_t *head, *text, tail[SEAL_TAG_LEN];
        EVP_CIPHER_CTX *c;
        int n = 0, ok;

        if (len > SEAL_LEN_MAX || strlen(context) > SEAL_CONTEXT_MAX)
                return -E2BIG;
        if (str_reserve(out, len + SEAL_OVERHEAD) < 0)
                return -ENOMEM;
        head = (uint8_t *)out->data + out->len;
        text = head + SEAL_HEAD_LEN;
        head[0] = SEAL_VERSION;
        if (RAND_bytes(head + 1, SEAL_SALT_LEN + SEAL_NONCE_LEN) != 1)
                return -EIO;
        c = cipher_new(s, context, head, true);
        if (!c)
                return -EIO;
        ok = (len == 0 || EVP_EncryptUpdate(c, text, &n, data, (int)len) == 1) &&
             EVP_EncryptFinal_ex(c, tail, &n) == 1 &&
             EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_GCM_GET_TAG, SEAL_TAG_LEN, text + len) == 1;
        EVP_CIPHER_CTX_free(c);
        if (!ok)
                return -EIO;
        out->len += len + SEAL_OVERHEAD;
        out->data[out->len] = '\0';
        return 0;
}

int seal_open(const struct seal *s, const char *context, const void *data, size_t len, struct str *out)
{
        const uint8_t *head = data, *text = head + SEAL_HEAD_LEN;
        uint8_t tag[SEAL_TAG_LEN], tail[SEAL_TAG_LEN];
        EVP_CIPHER_CTX *c;
        uint8_t *plain;
        int n = 0, ok;

        if (len < SEAL_OVERHEAD || len > SEAL_LEN_MAX || head[0] != SEAL_VERSION || strlen(context) > SEAL_CONTEXT_MAX)
                return -EBADMSG;
        len -= SEAL_OVERHEAD;
        if (str_reserve(out, len + 1) < 0)
                return -ENOMEM;
        plain = (uint8_t *)out->data + out->len;
        memcpy(tag, text + len, sizeof(tag));
        c = cipher_new(s, context, head, false);
        if (!c)
                return -EIO;
        ok = (len == 0 || EVP_DecryptUpdate(c, plain, &n, text, (int)len) == 1) &&
             EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_GCM_SET_TAG, SEAL_TAG_LEN, tag) == 1 &&
             EVP_DecryptFinal_ex(c, tail, &n) == 1;
        EVP_CIPHER_CTX_free(c);
        if (!ok) {
                /* Nobody may see what did not prove itself. */
                OPENSSL_cleanse(plain, len);
                *plain = '\0';
                return -EBADMSG;
        }
        out->len += len;
        out->data[out->len] = '\0';
        return 0;
}

void seal_wipe(struct str *s)
{
        if (s->data)
                OPENSSL_cleanse(s->data, s->cap);
        str_done(s);
}
