/* Dies by the signal that its argument names: no shell does that for each of them. */
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char **argv)
{
        int n = argc > 1 ? (int)strtol(argv[1], NULL, 10) : 0;
        sigset_t set;

        sigemptyset(&set);
        sigprocmask(SIG_SETMASK, &set, NULL);
        signal(n, SIG_DFL);
        kill(getpid(), n);
        sleep(10);
        return 0;
}
