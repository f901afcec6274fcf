#include "base/startup.h"

#include <link.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

/* Segments that are mapped without the right to write are as they are in the file: relocations, also those that end as
 * read-only data, happen in writable segments. */
static int forget_object(struct dl_phdr_info *info, size_t size, void *data)
{
        uintptr_t page = *(const uintptr_t *)data;

        (void)size;
        for (size_t i = 0; i < info->dlpi_phnum; i++) {
                const ElfW(Phdr) *h = &info->dlpi_phdr[i];
                uintptr_t begin = (info->dlpi_addr + h->p_vaddr) & ~(page - 1);
                uintptr_t end = (info->dlpi_addr + h->p_vaddr + h->p_memsz) & ~(page - 1);

                /* Up to the last whole page: what follows in it may be of the next segment. */
                if (h->p_type == PT_LOAD && !(h->p_flags & PF_W) && end > begin)
                        (void)madvise((void *)begin, end - begin,
                                      MADV_DONTNEED); /* NOLINT(performance-no-int-to-ptr) */
        }
        return 0;
}

void startup_forget(void)
{
        uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);

        (void)dl_iterate_phdr(forget_object, &page);
}
