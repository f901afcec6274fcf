#include "base/fd.h"
#include "loop/internal.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>

#define STACK_SIZE ((size_t)512 * 1024)

struct job {
        struct job *next;
        void (*run)(void *data);
        void (*done)(void *data);
        void *data;
};

struct jobs {
        struct job *first, **last;
};

struct queue {
        struct loop_pool *pool;
        pthread_t thread;
        pthread_cond_t wake;
        struct jobs waiting;
        size_t n_waiting;
        bool started;
};

struct loop_pool {
        pthread_mutex_t lock; /* of all below */
        struct queue queues[LOOP_QUEUES];
        struct jobs finished;
        int eventfd;
        bool stopping;
};

static void jobs_init(struct jobs *j)
{
        j->first = NULL;
        j->last = &j->first;
}

static void jobs_append(struct jobs *j, struct job *job)
{
        job->next = NULL;
        *j->last = job;
        j->last = &job->next;
}

static struct job *jobs_shift(struct jobs *j)
{
        struct job *job = j->first;

        if (job) {
                j->first = job->next;
                if (!j->first)
                        j->last = &j->first;
        }
        return job;
}

int loop_pool_new(struct loop_pool **ret)
{
        struct loop_pool *pool;

        pool = calloc(1, sizeof(*pool));
        if (!pool)
                return -ENOMEM;
        pool->eventfd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (pool->eventfd < 0) {
                int r = -errno;

                free(pool);
                return r;
        }
        (void)pthread_mutex_init(&pool->lock, NULL);
        jobs_init(&pool->finished);
        for (size_t i = 0; i < LOOP_QUEUES; i++) {
                struct queue *q = &pool->queues[i];

                q->pool = pool;
                (void)pthread_cond_init(&q->wake, NULL);
                jobs_init(&q->waiting);
        }
        *ret = pool;
        return 0;
}

int loop_pool_fd(const struct loop_pool *pool)
{
        return pool->eventfd;
}

static void *queue_main(void *data)
{
        struct queue *q = data;
        struct loop_pool *pool = q->pool;

        (void)pthread_mutex_lock(&pool->lock);
        for (;;) {
                struct job *job = jobs_shift(&q->waiting);

                if (!job && pool->stopping)
                        break;
                if (!job) {
                        (void)pthread_cond_wait(&q->wake, &pool->lock);
                        continue;
                }
                q->n_waiting--;
                (void)pthread_mutex_unlock(&pool->lock);
                job->run(job->data);
                (void)pthread_mutex_lock(&pool->lock);
                /* The loop takes all that is finished at once: only the first needs to wake it. */
                if (!pool->finished.first)
                        (void)eventfd_write(pool->eventfd, 1);
                jobs_append(&pool->finished, job);
        }
        (void)pthread_mutex_unlock(&pool->lock);
        return NULL;
}

/* Signals belong to the loop's thread. */
static int queue_start(struct queue *q)
{
        pthread_attr_t attr;
        sigset_t all, old;
        int r;

        r = pthread_attr_init(&attr);
        if (r != 0)
                return -r;
        (void)pthread_attr_setstacksize(&attr, STACK_SIZE);
        (void)sigfillset(&all);
        (void)pthread_sigmask(SIG_SETMASK, &all, &old);
        r = pthread_create(&q->thread, &attr, queue_main, q);
        (void)pthread_sigmask(SIG_SETMASK, &old, NULL);
        (void)pthread_attr_destroy(&attr);
        q->started = r == 0;
        return -r;
}

int loop_pool_add(struct loop_pool *pool, unsigned queue, void (*run)(void *), void (*done)(void *), void *data)
{
        struct queue *q;
        struct job *job;
        int r = 0;

        if (queue >= LOOP_QUEUES)
                return -EINVAL;
        q = &pool->queues[queue];
        job = malloc(sizeof(*job));
        if (!job)
                return -ENOMEM;
        *job = (struct job){ .run = run, .done = done, .data = data };
        (void)pthread_mutex_lock(&pool->lock);
        if (pool->stopping)
                r = -ESHUTDOWN;
        else if (q->n_waiting >= LOOP_WORK_MAX)
                r = -EAGAIN;
        else if (!q->started)
                r = queue_start(q);
        if (r == 0) {
                jobs_append(&q->waiting, job);
                if (q->n_waiting++ == 0)
                        (void)pthread_cond_signal(&q->wake);
                job = NULL;
        }
        (void)pthread_mutex_unlock(&pool->lock);
        free(job);
        return r;
}

void loop_pool_reap(struct loop_pool *pool)
{
        struct job *job;

        (void)pthread_mutex_lock(&pool->lock);
        job = pool->finished.first;
        jobs_init(&pool->finished);
        (void)pthread_mutex_unlock(&pool->lock);
        while (job) {
                struct job *next = job->next;

                job->done(job->data);
                free(job);
                job = next;
        }
}

void loop_pool_free(struct loop_pool *pool)
{
        if (!pool)
                return;
        (void)pthread_mutex_lock(&pool->lock);
        pool->stopping = true;
        for (size_t i = 0; i < LOOP_QUEUES; i++)
                (void)pthread_cond_signal(&pool->queues[i].wake);
        (void)pthread_mutex_unlock(&pool->lock);
        for (size_t i = 0; i < LOOP_QUEUES; i++)
                if (pool->queues[i].started)
                        (void)pthread_join(pool->queues[i].thread, NULL);
        loop_pool_reap(pool);
        for (size_t i = 0; i < LOOP_QUEUES; i++)
                (void)pthread_cond_destroy(&pool->queues[i].wake);
        (void)pthread_mutex_destroy(&pool->lock);
        fd_close(pool->eventfd);
        free(pool);
}
