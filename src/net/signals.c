#include "net/signals.h"

#include <signal.h>
#include <sys/signalfd.h>

int signals_open(int *ret, struct err *err)
{
        sigset_t set;
        int fd;

        (void)sigemptyset(&set);
        (void)sigaddset(&set, SIGTERM);
        (void)sigaddset(&set, SIGINT);
        fd = sigprocmask(SIG_BLOCK, &set, NULL) < 0 ? -1 : signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
        if (fd < 0)
                return err_sys(err, "signals");
        *ret = fd;
        return 0;
}
