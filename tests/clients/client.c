/* libcurl, as programs use it. URL and KEY come by the environment. */
#include <curl/curl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PARALLEL 20
#define TASK "{\"image\":\"busybox:demo\",\"network\":\"none\",\"cmd\":[\"echo\",\"hello\"]}"

static char url[256];
static int failed;
static struct curl_slist *headers;

struct answer {
        char text[65536];
        size_t len;
};

static void report(const char *name, bool good, const char *why)
{
        printf("%s - libcurl: %s%s%.300s\n", good ? "ok" : "not ok", name, good ? "" : ": ", good ? "" : why);
        failed |= !good;
}

static size_t on_data(char *data, size_t one, size_t n, void *to)
{
        struct answer *a = to;

        if (n > sizeof(a->text) - 1 - a->len)
                return 0;
        memcpy(a->text + a->len, data, n);
        a->len += n;
        a->text[a->len] = '\0';
        return one * n;
}

static CURL *handle(struct answer *a)
{
        CURL *c = curl_easy_init();

        curl_easy_setopt(c, CURLOPT_URL, url);
        curl_easy_setopt(c, CURLOPT_USERPWD, getenv("KEY"));
        curl_easy_setopt(c, CURLOPT_HTTPHEADER, headers);
        curl_easy_setopt(c, CURLOPT_POSTFIELDS, TASK);
        curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_data);
        curl_easy_setopt(c, CURLOPT_WRITEDATA, a);
        curl_easy_setopt(c, CURLOPT_TIMEOUT, 120L);
        return c;
}

static bool good(CURL *c, const struct answer *a)
{
        long status = 0;

        curl_easy_getinfo(c, CURLINFO_RESPONSE_CODE, &status);
        return status == 201 && strstr(a->text, "\"stdout\":\"hello\\n\"");
}

static void perform(const char *name, CURL *c, struct answer *a)
{
        CURLcode r;

        a->len = 0;
        a->text[0] = '\0';
        r = curl_easy_perform(c);
        report(name, r == CURLE_OK && good(c, a), r == CURLE_OK ? a->text : curl_easy_strerror(r));
}

static void test_easy(void)
{
        static struct answer a;
        long connects = 0, all = 0;
        CURL *c = handle(&a);

        perform("a task", c, &a);
        for (int i = 0; i < 5; i++) {
                perform("the same handle again", c, &a);
                curl_easy_getinfo(c, CURLINFO_NUM_CONNECTS, &connects);
                all += connects;
        }
        report("one connection for all", all == 0, "it connected again");
        curl_easy_setopt(c, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_0);
        perform("HTTP/1.0", c, &a);
        curl_easy_setopt(c, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_2_0);
        perform("HTTP/2 by upgrade, which is not taken up", c, &a);
        curl_easy_cleanup(c);
}

static size_t read_slowly(char *to, size_t one, size_t n, void *from)
{
        const char **at = from;
        size_t len = strlen(*at), take = len < 7 ? len : 7;

        if (take > one * n)
                take = one * n;
        memcpy(to, *at, take);
        *at += take;
        return take;
}

static void test_chunked(void)
{
        static struct answer a;
        const char *at = TASK;
        struct curl_slist *more = curl_slist_append(NULL, "Content-Type: application/json");
        CURL *c = handle(&a);

        more = curl_slist_append(more, "Transfer-Encoding: chunked");
        more = curl_slist_append(more, "Expect: 100-continue");
        curl_easy_setopt(c, CURLOPT_POSTFIELDS, NULL);
        curl_easy_setopt(c, CURLOPT_POST, 1L);
        curl_easy_setopt(c, CURLOPT_HTTPHEADER, more);
        curl_easy_setopt(c, CURLOPT_READFUNCTION, read_slowly);
        curl_easy_setopt(c, CURLOPT_READDATA, &at);
        perform("a chunked body in small pieces, after 100 Continue", c, &a);
        curl_easy_cleanup(c);
        curl_slist_free_all(more);
}

static void test_multi(void)
{
        static struct answer answers[PARALLEL];
        CURLM *multi = curl_multi_init();
        CURL *all[PARALLEL];
        int running = 1, n_good = 0;

        for (int i = 0; i < PARALLEL; i++) {
                all[i] = handle(&answers[i]);
                curl_multi_add_handle(multi, all[i]);
        }
        while (running > 0 && curl_multi_perform(multi, &running) == CURLM_OK)
                curl_multi_poll(multi, NULL, 0, 1000, NULL);
        for (int i = 0; i < PARALLEL; i++) {
                n_good += good(all[i], &answers[i]);
                curl_multi_remove_handle(multi, all[i]);
                curl_easy_cleanup(all[i]);
        }
        curl_multi_cleanup(multi);
        report("20 at once", n_good == PARALLEL, "not all were answered");
}

int main(void)
{
        if (!getenv("URL") || !getenv("KEY"))
                return 2;
        snprintf(url, sizeof(url), "%s/v1/tasks", getenv("URL"));
        curl_global_init(CURL_GLOBAL_DEFAULT);
        headers = curl_slist_append(NULL, "Content-Type: application/json");
        test_easy();
        test_chunked();
        test_multi();
        curl_slist_free_all(headers);
        curl_global_cleanup();
        return failed;
}
