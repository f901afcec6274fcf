/* /docs: the API's pages, and /v1/openapi.json, which they show. All of it is built in, so that it works offline. */

#include "api/internal.h"
#include "docs_assets.h"

#include <string.h>

static const struct asset {
        const char *name, *type;
        const unsigned char *data;
        size_t len;
} openapi = { "openapi.json", "application/json", docs_openapi, sizeof(docs_openapi) }, pages[] = {
        { "", "text/html; charset=utf-8", docs_index, sizeof(docs_index) },
        { "start.js", "text/javascript; charset=utf-8", docs_start, sizeof(docs_start) },
        { "swagger-ui-bundle.js", "text/javascript; charset=utf-8", docs_bundle, sizeof(docs_bundle) },
        { "swagger-ui.css", "text/css; charset=utf-8", docs_style, sizeof(docs_style) },
};

static void asset_send(struct call *c, const struct asset *a)
{
        auto_str text = STR_INIT;

        if (str_add(&text, a->data, a->len) < 0)
                call_oom(c);
        else
                call_send(c, 200, a->type, &text);
}

void openapi_run(struct call *c)
{
        asset_send(c, &openapi);
}

/* Pages are kept compressed and sent so: whoever wants no coding (RFC 9110 section 12.5.3) is no browser. */
void docs_run(struct call *c)
{
        const char *name = c->subject ? c->subject : "";
        static const char policy[] = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
                                     "img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'";

        for (size_t i = 0; i < ARRAY_LEN(pages); i++) {
                if (!str_eq(pages[i].name, name))
                        continue;
                if (http_add_header(c->http, "Content-Encoding", "gzip") < 0 ||
                    http_add_header(c->http, "Content-Security-Policy", policy) < 0 ||
                    http_add_header(c->http, "X-Content-Type-Options", "nosniff") < 0)
                        call_oom(c);
                else
                        asset_send(c, &pages[i]);
                return;
        }
        call_problem(c, 404, "not_found", "there is no /docs/%s", name);
}
