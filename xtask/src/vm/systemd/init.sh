#!/guest/busybox sh
# The kernel's first root can't be pivoted away from, which the sandboxes of units do. So the same files are mounted
# over it once more, and systemd begins there.
/guest/busybox mount -o bind / /mnt
cd /mnt || exit 1
/guest/busybox mount -o move . /
exec /guest/busybox chroot . /lib/systemd/systemd
