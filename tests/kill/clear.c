/* Clears its death signal, as a hostile container does, also in another session, and stays. */
#include <sys/prctl.h>
#include <unistd.h>
int main(void)
{
        prctl(PR_SET_PDEATHSIG, 0);
        if (fork() == 0) {
                setsid();
                prctl(PR_SET_PDEATHSIG, 0);
        }
        write(1, "cleared\n", 8);
        for (;;)
                pause();
}
