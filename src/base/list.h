/* Doubly linked list inside its members. A head is initialised by list_init(); a node that is in no list by the same. */
#pragma once

#include "base/str.h"

#include <stdbool.h>

struct list {
        struct list *next, *prev;
};

static inline void list_init(struct list *l)
{
        l->next = l->prev = l;
}

static inline bool list_empty(const struct list *l)
{
        return l->next == l;
}

static inline void list_append(struct list *head, struct list *node)
{
        node->prev = head->prev;
        node->next = head;
        head->prev->next = node;
        head->prev = node;
}

/* Leaves the node initialised; removing it again does nothing. */
static inline void list_remove(struct list *node)
{
        node->prev->next = node->next;
        node->next->prev = node->prev;
        list_init(node);
}

#define LIST_FIRST(head, type, member) (list_empty(head) ? NULL : CONTAINER_OF((head)->next, type, member))

/* `it` may be removed in the body. */
#define LIST_FOREACH(it, head, member)                                                                                 \
        for (struct list *it##_at_ = (head)->next, *it##_next_ = it##_at_->next;                                       \
             it##_at_ != (head) && ((it) = CONTAINER_OF(it##_at_, __typeof__(*(it)), member), true);                   \
             it##_at_ = it##_next_, it##_next_ = it##_at_->next)
