"""A small block device with a file system, for a data directory: it can be full, and of a power cut it keeps what was written
out to it."""

import os
import shutil
import subprocess

import mayfly


def sh(text):
    done = subprocess.run(["sh", "-ec", text], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise AssertionError(f"{text}: exit code {done.returncode}: {done.stdout.decode()[-800:]}")


def possible():
    return shutil.which("mke2fs") and os.path.exists("/dev/loop-control")


class Disk:
    """Mounted at `directory`. What the page cache alone holds is lost with a cut, and what nobody's fsync asked for is in no
    hurry to leave it: the journal's own rhythm would write out everything every five seconds."""

    def __init__(self, directory, megabytes):
        if not possible():
            raise mayfly.Skip("no loop devices or no mke2fs here")
        self.image, self.point, self.device = directory + ".img", directory, None
        os.makedirs(self.point)
        with open(self.image, "wb") as f:
            f.truncate(megabytes << 20)
        sh(f"mke2fs -q -F -t ext4 -m 0 -E lazy_itable_init=0,lazy_journal_init=0 {self.image}")
        self.mount()

    def mount(self):
        sh(f"mount -o loop,commit=300 {self.image} {self.point}; chmod 755 {self.point}")
        self.device = next(line.split()[2] for line in mayfly.read("/proc/self/mountinfo").splitlines()
                           if line.split()[4] == self.point)

    def unmount(self):
        """Waits for whoever still has it open."""
        def done():
            return subprocess.run(["umount", self.point], stderr=subprocess.DEVNULL, check=False).returncode == 0
        if not mayfly.wait_until(done, 20):
            raise AssertionError("the disk is busy")

    def written(self):
        """Requests and sectors that the device was given."""
        return mayfly.read(f"/sys/dev/block/{self.device}/stat").split()[4:7:2]

    def snapshot(self):
        """Takes what is on it at one moment; nothing may be written meanwhile."""
        for _ in range(50):
            before = self.written()
            shutil.copyfile(self.image, self.image + ".cut")
            if before == self.written():
                return
        raise AssertionError("the device is never at rest")

    def revert(self):
        """To the snapshot."""
        self.unmount()
        os.rename(self.image + ".cut", self.image)
        self.mount()

    def fill(self):
        """Until nothing fits; the file that takes the room."""
        path = os.path.join(self.point, "filler")
        fd = os.open(path, os.O_WRONLY | os.O_CREAT)
        size = 1 << 20
        try:
            while size >= 512:
                try:
                    if os.write(fd, bytes(size)) < size:
                        size //= 2
                except OSError:
                    size //= 2
        finally:
            os.close(fd)
        return path

    def close(self):
        if os.path.ismount(self.point):
            subprocess.run(["umount", "-l", self.point], check=False)
        for path in (self.image, self.image + ".cut"):
            if os.path.exists(path):
                os.unlink(path)
        if os.path.isdir(self.point):
            os.rmdir(self.point)
        # An instance that was closed before could not remove its own directory.
        if not os.listdir(os.path.dirname(self.point)):
            os.rmdir(os.path.dirname(self.point))
