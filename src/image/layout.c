#include "image/layout.h"

#include "base/fd.h"
#include "base/path.h"
#include "base/vec.h"
#include "image/ref.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <openssl/sha.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define DIR_FLAGS (O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
#define LAYOUT_TEXT "{\"imageLayoutVersion\":\"1.0.0\"}"
#define TMP_NAME "incoming"
#define COPY_CHUNK (256U << 10)
#define HEX 64
#define TMP_NAME_MAX 40
#define PARTIAL_AGE_S (7 * 24 * 3600)
#define PARTIAL_NAME_MAX (HEX + 22) /* "<hex>.<size>" */
#define INDEX "index.json"
#define ASIDE_MAX 9

static void tmp_name(char out[TMP_NAME_MAX])
{
        static atomic_uint_fast64_t last;

        (void)snprintf(out, TMP_NAME_MAX, TMP_NAME ".%" PRIu64, (uint64_t)atomic_fetch_add(&last, 1));
}

/* ── claims ───────────────────────────────────────────────────────────────────────────────────────────────────────── */

struct claim {
        uint64_t claimant;
        char hex[HEX + 1];
};

/* Giving a name and claiming it are one for whoever collects: both hold the lock. */
struct image_claims {
        pthread_mutex_t lock;
        VEC(struct claim) all;
        struct map
                *held; /* how many claim it, by hex: who collects asks of each file, and an archive may have 100,000 */
};

static struct image_claims *claims_new(void)
{
        struct image_claims *c = calloc(1, sizeof(*c));

        if (!c)
                return NULL;
        c->held = map_new();
        if (!c->held) {
                free(c);
                return NULL;
        }
        (void)pthread_mutex_init(&c->lock, NULL);
        return c;
}

static void claims_free(struct image_claims *c)
{
        if (!c)
                return;
        (void)pthread_mutex_destroy(&c->lock);
        VEC_DONE(&c->all);
        map_free(c->held);
        free(c);
}

static uintptr_t holders(const struct image_claims *c, const char *hex)
{
        return (uintptr_t)map_find(c->held, hex);
}

static int set_holders(struct image_claims *c, const char *hex, uintptr_t n)
{
        if (n > 0)
                return map_set(c->held, hex, (void *)n);
        (void)map_remove(c->held, hex);
        return 0;
}

static int claim_locked(const struct image_layout *l, const char *hex)
{
        struct claim claim = { .claimant = l->claimant };
        struct image_claims *c = l->claims;
        int r;

        if (l->claimant == 0)
                return 0;
        (void)snprintf(claim.hex, sizeof(claim.hex), "%.64s", hex);
        r = set_holders(c, claim.hex, holders(c, claim.hex) + 1);
        if (r < 0)
                return r;
        r = VEC_ADD(&c->all, claim);
        if (r < 0)
                (void)set_holders(c, claim.hex, holders(c, claim.hex) - 1);
        return r;
}

static bool claimed_locked(const struct image_layout *l, const char *hex)
{
        return holders(l->claims, hex) > 0;
}

int image_layout_claim(const struct image_layout *l, const char *digest)
{
        int r;

        if (!image_digest_valid(digest))
                return -EINVAL;
        (void)pthread_mutex_lock(&l->claims->lock);
        r = claim_locked(l, digest + 7);
        (void)pthread_mutex_unlock(&l->claims->lock);
        return r;
}

void image_layout_release(const struct image_layout *l)
{
        struct image_claims *c = l->claims;
        size_t kept = 0;

        if (l->claimant == 0)
                return;
        (void)pthread_mutex_lock(&c->lock);
        for (size_t i = 0; i < c->all.len; i++) {
                const struct claim *claim = &c->all.items[i];

                if (claim->claimant != l->claimant)
                        c->all.items[kept++] = *claim;
                else
                        (void)set_holders(c, claim->hex, holders(c, claim->hex) - 1);
        }
        c->all.len = kept;
        (void)pthread_mutex_unlock(&c->lock);
}

/* Gives what is in `tmp` its name, and claims it. */
static int name_blob(const struct image_layout *l, const char *tmp, const char *hex, struct err *err)
{
        int r;

        (void)pthread_mutex_lock(&l->claims->lock);
        r = claim_locked(l, hex);
        if (r == 0 && renameat(l->blobs, tmp, l->blobs, hex) < 0)
                r = -errno;
        (void)pthread_mutex_unlock(&l->claims->lock);
        return r < 0 ? err_set(err, -r, "name a blob: %s", strerror(-r)) : 0;
}

/* ── directories ──────────────────────────────────────────────────────────────────────────────────────────────────── */

static int open_dir(int dir, const char *name, int *ret, struct err *err)
{
        if (mkdirat(dir, name, 0700) < 0 && errno != EEXIST)
                return err_sys(err, "make '%s' of the image layout", name);
        *ret = openat(dir, name, DIR_FLAGS);
        return *ret < 0 ? err_sys(err, "open '%s' of the image layout", name) : 0;
}

/* Calls fn for each name in a directory. */
static int each(int dirfd, void (*fn)(int dirfd, const char *name, void *data), void *data, struct err *err)
{
        int fd = openat(dirfd, ".", DIR_FLAGS);
        DIR *dir = fd < 0 ? NULL : fdopendir(fd);
        struct dirent *e;

        if (!dir) {
                int r = err_sys(err, "read a directory of the image layout");

                fd_close(fd);
                return r;
        }
        while ((e = readdir(dir))) {
                if (e->d_name[0] != '.')
                        fn(dirfd, e->d_name, data);
        }
        closedir(dir);
        return 0;
}

static void remove_temporary(int dirfd, const char *name, void *data)
{
        struct image_layout *l = data;

        if (!hex_is_lower(name, HEX) && unlinkat(dirfd, name, 0) == 0)
                l->cut_off++;
}

static void remove_cut_users(int dirfd, const char *name, void *data)
{
        struct image_layout *l = data;

        if (strstr(name, ".tmp") && unlinkat(dirfd, name, 0) == 0)
                l->cut_off++;
}

/* Written, or (ctime) named or held. */
static bool is_older(const struct stat *st, time_t when)
{
        return st->st_mtime < when && st->st_ctime < when;
}

static int partial_name(const char *digest, uint64_t size, char out[PARTIAL_NAME_MAX])
{
        if (!image_digest_valid(digest))
                return -EINVAL;
        (void)snprintf(out, PARTIAL_NAME_MAX, "%.64s.%" PRIu64, digest + 7, size);
        return 0;
}

/* Of which blob it is a part; false: of none. */
static bool partial_hex(const char *name, char hex[HEX + 1])
{
        uint64_t size;

        (void)snprintf(hex, HEX + 1, "%s", name);
        return hex_is_lower(hex, HEX) && name[HEX] == '.' && parse_u64(name + HEX + 1, &size) == 0;
}

/* Of an image that was finished, or was given up. */
static void remove_old_partial(int dirfd, const char *name, void *data)
{
        const struct image_layout *l = data;
        char hex[HEX + 1];
        struct stat st;

        if (!partial_hex(name, hex) || faccessat(l->blobs, hex, F_OK, AT_SYMLINK_NOFOLLOW) == 0 ||
            fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(st.st_mode) ||
            st.st_mtime < time(NULL) - PARTIAL_AGE_S)
                (void)unlinkat(dirfd, name, 0);
}

static void drop_partial(int dirfd, const char *name, void *data)
{
        const time_t *when = data;
        struct stat st;

        if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && is_older(&st, *when))
                (void)unlinkat(dirfd, name, 0);
}

void image_layout_drop_partials(const struct image_layout *l, uint64_t age_s)
{
        time_t when = time(NULL) - (time_t)MIN(age_s, (uint64_t)UINT32_MAX);

        (void)each(l->partial, drop_partial, &when, NULL);
}

static int write_first(const struct image_layout *l, const char *name, const char *text, struct err *err)
{
        if (faccessat(l->dir, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
                return 0;
        return fd_write_file(l->dir, name, 0600, text, strlen(text), err);
}

int image_layout_open(const char *path, struct image_layout *ret, struct err *err)
{
        __attribute__((cleanup(image_layout_close))) struct image_layout l = IMAGE_LAYOUT_NONE;
        auto_fd all = -EBADF;
        int r;

        r = path_mkdirs(path, 0700, err);
        if (r < 0)
                return r;
        l.claims = claims_new();
        if (!l.claims)
                return err_oom(err);
        l.dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (l.dir < 0)
                return err_sys(err, "open '%s'", path);
        r = open_dir(l.dir, "blobs", &all, err);
        if (r == 0)
                r = open_dir(all, "sha256", &l.blobs, err);
        if (r == 0)
                r = open_dir(l.dir, "users", &l.users, err);
        if (r == 0)
                r = open_dir(l.dir, "partial", &l.partial, err);
        if (r == 0)
                r = each(l.blobs, remove_temporary, &l, err);
        if (r == 0)
                r = each(l.users, remove_cut_users, &l, err);
        if (r == 0)
                r = each(l.partial, remove_old_partial, &l, err);
        if (r == 0)
                r = write_first(&l, "oci-layout", LAYOUT_TEXT, err);
        if (r < 0)
                return r;
        *ret = l;
        l = (struct image_layout)IMAGE_LAYOUT_NONE;
        return 0;
}

void image_layout_close(struct image_layout *l)
{
        fd_replace(&l->dir, -EBADF);
        fd_replace(&l->blobs, -EBADF);
        fd_replace(&l->users, -EBADF);
        fd_replace(&l->partial, -EBADF);
        claims_free(TAKE_PTR(l->claims));
}

int image_layout_spool(const struct image_layout *l, int *ret, struct err *err)
{
        int fd = openat(l->dir, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
        char name[TMP_NAME_MAX];

        if (fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR)) {
                tmp_name(name);
                fd = openat(l->blobs, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
                if (fd >= 0)
                        (void)unlinkat(l->blobs, name, 0);
        }
        if (fd < 0)
                return err_sys(err, "make a temporary file");
        *ret = fd;
        return 0;
}

static void ctx_free(EVP_MD_CTX **ctx)
{
        EVP_MD_CTX_free(*ctx);
}
#define auto_md __attribute__((cleanup(ctx_free))) EVP_MD_CTX *

static int finish_digest(EVP_MD_CTX *ctx, char digest[IMAGE_DIGEST_MAX])
{
        unsigned char hash[SHA256_DIGEST_LENGTH];

        if (EVP_DigestFinal_ex(ctx, hash, NULL) != 1)
                return -EIO;
        (void)snprintf(digest, IMAGE_DIGEST_MAX, "sha256:");
        hex_encode(hash, sizeof(hash), digest + 7);
        return 0;
}

/* Copies and hashes; to_fd may be -EBADF. */
static int copy(int from, uint64_t offset, uint64_t size, int to, char digest[IMAGE_DIGEST_MAX], struct err *err)
{
        auto_free char *buffer = malloc(COPY_CHUNK);
        auto_md ctx = EVP_MD_CTX_new();
        int r;

        if (!buffer || !ctx || EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) != 1)
                return err_oom(err);
        while (size > 0) {
                ssize_t n = pread(from, buffer, MIN(size, (uint64_t)COPY_CHUNK), (off_t)offset);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return err_sys(err, "read a blob");
                if (n == 0)
                        return err_set(err, EBADMSG, "a blob is cut short");
                r = to >= 0 ? fd_write_all(to, buffer, (size_t)n) : 0;
                if (r < 0)
                        return err_set(err, -r, "write a blob: %s", strerror(-r));
                if (EVP_DigestUpdate(ctx, buffer, (size_t)n) != 1)
                        return err_set(err, EIO, "cannot compute SHA-256");
                offset += (uint64_t)n;
                size -= (uint64_t)n;
        }
        return finish_digest(ctx, digest) < 0 ? err_set(err, EIO, "cannot compute SHA-256") : 0;
}

int image_layout_put(const struct image_layout *l, int from_fd, uint64_t offset, uint64_t size,
                     char digest[IMAGE_DIGEST_MAX], struct err *err)
{
        char found[IMAGE_DIGEST_MAX], name[TMP_NAME_MAX];
        auto_fd fd = -EBADF;
        int r;

        tmp_name(name);
        fd = openat(l->blobs, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (fd < 0)
                return err_sys(err, "make a blob");
        r = copy(from_fd, offset, size, fd, found, err);
        if (r == 0 && digest[0] && !str_eq(digest, found))
                r = err_set(err, EBADMSG, "blob %s has the digest %s", digest, found);
        if (r == 0 && fsync(fd) < 0)
                r = err_sys(err, "write a blob to disk");
        if (r == 0)
                r = name_blob(l, name, found + 7, err);
        if (r < 0) {
                (void)unlinkat(l->blobs, name, 0);
                return r;
        }
        memcpy(digest, found, IMAGE_DIGEST_MAX);
        return 0;
}

int image_layout_digest(int fd, char digest[IMAGE_DIGEST_MAX], struct err *err)
{
        struct stat st;

        if (fstat(fd, &st) < 0)
                return err_sys(err, "read a file");
        return copy(fd, 0, (uint64_t)st.st_size, -EBADF, digest, err);
}

int image_layout_put_text(const struct image_layout *l, const void *data, size_t len, char digest[IMAGE_DIGEST_MAX],
                          struct err *err)
{
        int r = image_sha256_text(data, len, digest, err);
        char name[TMP_NAME_MAX];
        auto_fd fd = -EBADF;

        if (r < 0)
                return r;
        tmp_name(name);
        fd = openat(l->blobs, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (fd < 0)
                return err_sys(err, "make a blob");
        r = fd_write_all(fd, data, len);
        if (r == 0 && fsync(fd) < 0)
                r = -errno;
        r = r < 0 ? err_set(err, -r, "write a blob: %s", strerror(-r)) : name_blob(l, name, digest + 7, err);
        if (r < 0)
                (void)unlinkat(l->blobs, name, 0);
        return r == 0 ? image_layout_sync(l, err) : r;
}

int image_layout_sync(const struct image_layout *l, struct err *err)
{
        return fsync(l->blobs) < 0 ? err_sys(err, "write blobs to disk") : 0;
}

int image_layout_open_blob(const struct image_layout *l, const char *digest, int *ret, uint64_t *ret_size,
                           struct err *err)
{
        auto_fd fd = -EBADF;
        struct stat st;

        if (!image_digest_valid(digest))
                return err_set(err, EINVAL, "no valid digest");
        fd = openat(l->blobs, digest + 7, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0 || fstat(fd, &st) < 0)
                return err_sys(err, "blob %s", digest);
        *ret = TAKE_FD(fd);
        *ret_size = (uint64_t)st.st_size;
        return 0;
}

static void drop_partial_of(int dirfd, const char *name, void *data)
{
        const char *wanted = data;
        char hex[HEX + 1];

        if (partial_hex(name, hex) && str_eq(hex, wanted))
                (void)unlinkat(dirfd, name, 0);
}

/* Its damage may be its size: whatever stands under its digest may be the same file. */
void image_layout_drop_blob(const struct image_layout *l, const char *digest)
{
        if (!image_digest_valid(digest))
                return;
        (void)unlinkat(l->blobs, digest + 7, 0);
        (void)each(l->partial, drop_partial_of, (void *)(uintptr_t)(digest + 7), NULL);
}

int image_layout_read_blob(const struct image_layout *l, const char *digest, size_t max, struct str *ret,
                           struct err *err)
{
        char found[IMAGE_DIGEST_MAX];
        auto_str text = STR_INIT;
        int r;

        if (!image_digest_valid(digest))
                return err_set(err, EINVAL, "no valid digest");
        r = fd_read_file(l->blobs, digest + 7, max, &text, err);
        if (r == 0)
                r = image_sha256_text(text.data ? text.data : "", text.len, found, err);
        if (r < 0)
                return r;
        if (!str_eq(found, digest))
                return err_set(err, EBADMSG, "blob %s is damaged", digest);
        str_done(ret);
        *ret = text;
        text = (struct str)STR_INIT;
        return 0;
}

int image_layout_partial_open(const struct image_layout *l, const char *digest, uint64_t size, int *ret,
                              struct err *err)
{
        char name[PARTIAL_NAME_MAX];
        int fd;

        if (partial_name(digest, size, name) < 0)
                return err_set(err, EINVAL, "no valid digest");
        fd = openat(l->partial, name, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (fd < 0)
                return err_sys(err, "make a file for blob %s", digest);
        *ret = fd;
        return 0;
}

int image_layout_partial_hold(const struct image_layout *l, const char *digest, uint64_t size)
{
        char name[PARTIAL_NAME_MAX];
        struct stat st;

        if (partial_name(digest, size, name) < 0)
                return -EINVAL;
        if (fstatat(l->blobs, digest + 7, &st, AT_SYMLINK_NOFOLLOW) < 0)
                return -errno;
        if ((uint64_t)st.st_size != size)
                return -EBADMSG;
        (void)unlinkat(l->partial, name, 0);
        return linkat(l->blobs, digest + 7, l->partial, name, 0) < 0 ? -errno : 0;
}

void image_layout_partial_remove(const struct image_layout *l, const char *digest, uint64_t size)
{
        char name[PARTIAL_NAME_MAX];

        if (partial_name(digest, size, name) == 0)
                (void)unlinkat(l->partial, name, 0);
}

/* 0: there is none, or it is whole, and on disk. */
static int write_partial(const struct image_layout *l, const char *name, uint64_t size, struct err *err)
{
        auto_fd fd = openat(l->partial, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
        struct stat st;

        if (fd < 0)
                return 0;
        if (fstat(fd, &st) < 0 || ((uint64_t)st.st_size == size && fsync(fd) < 0))
                return err_sys(err, "write blob %.64s to disk", name);
        return (uint64_t)st.st_size == size ? 0 : err_set(err, EBADMSG, "blob %.64s is not all here", name);
}

int image_layout_partial_commit(const struct image_layout *l, const char *digest, uint64_t size, struct err *err)
{
        char name[PARTIAL_NAME_MAX];
        int r;

        if (partial_name(digest, size, name) < 0)
                return err_set(err, EINVAL, "no valid digest");
        r = write_partial(l, name, size, err);
        if (r < 0)
                return r;
        (void)pthread_mutex_lock(&l->claims->lock);
        r = claim_locked(l, digest + 7);
        if (r == 0 && linkat(l->partial, name, l->blobs, digest + 7, 0) < 0 && errno != EEXIST &&
            !(errno == ENOENT && faccessat(l->blobs, digest + 7, F_OK, AT_SYMLINK_NOFOLLOW) == 0))
                r = -errno;
        (void)pthread_mutex_unlock(&l->claims->lock);
        return r < 0 ? err_set(err, -r, "name blob %s: %s", digest, strerror(-r)) : 0;
}

int image_layout_hold_blob(const struct image_layout *l, const char *digest, struct err *err)
{
        int r = image_layout_claim(l, digest);

        if (r == 0 && faccessat(l->blobs, digest + 7, F_OK, AT_SYMLINK_NOFOLLOW) < 0)
                r = -errno;
        return r < 0 ? err_set(err, -r, "blob %s: %s", digest, strerror(-r)) : 0;
}

/* Whether a blob may be a manifest: small, and an object. */
static bool may_be_manifest(const struct image_layout *l, const char *name)
{
        auto_fd fd = openat(l->blobs, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
        struct stat st;
        char first;

        return fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size <= (off_t)IMAGE_JSON_MAX &&
               read(fd, &first, 1) == 1 && (first == '{' || first == ' ' || first == '\n' || first == '\t');
}

struct search {
        const struct image_layout *layout;
        int (*fn)(const char *digest, uint64_t written_ms, void *data);
        void *data;
};

static int look_at_blob(const char *name, void *data)
{
        const struct search *s = data;
        char digest[IMAGE_DIGEST_MAX];
        struct stat st;

        if (!hex_is_lower(name, HEX) || name[HEX] != '\0' || !may_be_manifest(s->layout, name) ||
            fstatat(s->layout->blobs, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
                return 0;
        (void)snprintf(digest, sizeof(digest), "sha256:%.64s", name);
        return s->fn(digest, (uint64_t)MAX(st.st_mtim.tv_sec, (time_t)0) * 1000, s->data);
}

int image_layout_search(const struct image_layout *l, int (*fn)(const char *digest, uint64_t written_ms, void *data),
                        void *data, struct err *err)
{
        struct search s = { l, fn, data };
        int r = path_each_entry(l->blobs, look_at_blob, &s);

        return r < 0 ? err_set(err, -r, "look through the blobs: %s", strerror(-r)) : 0;
}

int image_layout_read_index(const struct image_layout *l, struct str *ret, struct err *err)
{
        return fd_read_file(l->dir, INDEX, IMAGE_INDEX_FILE_MAX, ret, err);
}

int image_layout_keep_index(const struct image_layout *l, char name[IMAGE_ASIDE_MAX], struct err *err)
{
        int r = -EEXIST;

        for (int i = 1; i <= ASIDE_MAX && r == -EEXIST; i++) {
                (void)snprintf(name, IMAGE_ASIDE_MAX, i == 1 ? INDEX ".damaged" : INDEX ".damaged.%d", i);
                r = linkat(l->dir, INDEX, l->dir, name, 0) < 0 ? -errno : 0;
        }
        if (r == -EEXIST && unlinkat(l->dir, name, 0) == 0)
                r = linkat(l->dir, INDEX, l->dir, name, 0) < 0 ? -errno : 0;
        /* A directory, say: it has to go away from there, and cannot have a second name. */
        if (r < 0 && renameat2(l->dir, INDEX, l->dir, name, RENAME_NOREPLACE) == 0)
                r = 0;
        return r < 0 ? err_set(err, -r, "keep index.json as %s: %s", name, strerror(-r)) : 0;
}

int image_layout_write_index(const struct image_layout *l, const char *text, size_t len, struct err *err)
{
        return fd_write_file(l->dir, INDEX, 0600, text, len, err);
}

int image_layout_read_usage(const struct image_layout *l, struct str *ret, struct err *err)
{
        return fd_read_file(l->dir, "usage.json", IMAGE_INDEX_FILE_MAX, ret, err);
}

int image_layout_write_usage(const struct image_layout *l, const char *text, size_t len, struct err *err)
{
        return fd_write_file(l->dir, "usage.json", 0600, text, len, err);
}

static void users_name(const char *tree, char out[HEX + 8])
{
        (void)snprintf(out, HEX + 8, "%.64s.json", tree);
}

int image_layout_read_users(const struct image_layout *l, const char *tree, struct str *ret, struct err *err)
{
        char name[HEX + 8];

        users_name(tree, name);
        return fd_read_file(l->users, name, IMAGE_USERS_FILE_MAX, ret, err);
}

int image_layout_write_users(const struct image_layout *l, const char *tree, const char *text, size_t len,
                             struct err *err)
{
        char name[HEX + 8];
        int r;

        users_name(tree, name);
        (void)pthread_mutex_lock(&l->claims->lock);
        r = claim_locked(l, tree);
        (void)pthread_mutex_unlock(&l->claims->lock);
        return r < 0 ? err_oom(err) : fd_write_file(l->users, name, 0600, text, len, err);
}

struct collection {
        const struct image_layout *layout;
        const struct map *keep;
};

static void collect(int dirfd, const char *name, void *data)
{
        const struct collection *c = data;
        char key[HEX + 1];

        (void)snprintf(key, sizeof(key), "%.*s", HEX, name);
        if (hex_is_lower(key, HEX) && map_find(c->keep, key))
                return;
        /* What is being written belongs to somebody, and is removed by the next open if that one dies. */
        if (!hex_is_lower(key, HEX) && (str_starts(name, TMP_NAME) || strstr(name, ".tmp")))
                return;
        (void)pthread_mutex_lock(&c->layout->claims->lock);
        if (!claimed_locked(c->layout, key))
                (void)unlinkat(dirfd, name, 0);
        (void)pthread_mutex_unlock(&c->layout->claims->lock);
}

int image_layout_collect(const struct image_layout *l, const struct map *blobs, const struct map *trees,
                         struct err *err)
{
        struct collection c = { l, blobs };
        int r;

        r = each(l->blobs, collect, &c, err);
        c.keep = trees;
        return r < 0 ? r : each(l->users, collect, &c, err);
}
