# Runs the tests under systemd and reports as the small guest's init does: port 1 stdout, 2 stderr, 3 what the runner
# must know.
for port in 1 2 3; do stty -F /dev/ttyS$port raw -echo; done
read up idle </proc/uptime
echo "ready $up" >/dev/ttyS3

. /guest/environment
# What hung, on the console, a moment before the host gives up.
(
    sleep "$GUEST_SECONDS"
    echo "--- the run took longer than $GUEST_SECONDS s; systemd's jobs, and the end of the journal:"
    systemctl list-jobs --no-pager
    journalctl --no-pager --lines 100
) >/dev/ttyS0 2>&1 &

cd /root
sh /guest/test </dev/null >/dev/ttyS1 2>/dev/ttyS2
status=$?
# Setting a port waits until its bytes are out.
stty -F /dev/ttyS1 raw
stty -F /dev/ttyS2 raw
echo "exit $status" >/dev/ttyS3
stty -F /dev/ttyS3 raw
