# The rest of the start, on the disk's root with Debian's own tools; then the tests, and the report, as the small
# guest's init does. The host reads four serial ports: 0 the console, 1 stdout, 2 stderr, 3 what the runner must know.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mkdir -p /dev/pts /dev/shm /run/lock
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t tmpfs -o mode=755 run /run
mount -t tmpfs -o mode=1777 tmp /tmp
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mount -t securityfs security /sys/kernel/security
mount -t tracefs trace /sys/kernel/tracing
ln -s /proc/self/fd /dev/fd
ln -s /proc/self/fd/0 /dev/stdin
ln -s /proc/self/fd/1 /dev/stdout
ln -s /proc/self/fd/2 /dev/stderr
# An agent's own disk, where the run has one.
if [ -b /dev/vdb ]; then
    mkdir -p /opt/agent
    mount -t ext4 -o ro /dev/vdb /opt/agent || echo "the agent's disk can't be mounted" >/dev/ttyS0
fi
ip link set lo up
hostname guest
# Debian's own settings: the sandboxes of agents make user namespaces.
sysctl -q kernel.unprivileged_userns_clone=1 user.max_user_namespaces=10000 2>/dev/null

# Bytes must arrive as they were written.
for port in 1 2 3; do stty -F /dev/ttyS$port raw -echo; done
read up idle </proc/uptime
echo "ready $up" >/dev/ttyS3

. /guest/environment
# What hung, on the console, a moment before the host gives up.
(
    sleep "$GUEST_SECONDS"
    echo "--- the run took longer than $GUEST_SECONDS s; what lives, and where it waits in the kernel:"
    for process in /proc/[0-9]*; do
        command=$(tr '\0' ' ' 2>/dev/null <"$process/cmdline")
        [ -n "$command" ] || continue
        echo "${process#/proc/} $command"
        sed 's/^/        /' "$process/stack" 2>/dev/null
    done
) >/dev/ttyS0 2>&1 &

cd /root
sh /guest/test </dev/null >/dev/ttyS1 2>/dev/ttyS2
status=$?
# Setting a port waits until its bytes are out.
stty -F /dev/ttyS1 raw
stty -F /dev/ttyS2 raw
echo "exit $status" >/dev/ttyS3
stty -F /dev/ttyS3 raw
/guest/busybox reboot -f
