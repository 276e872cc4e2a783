#!/bin/busybox sh
# The kernel's first root: mounts the disk, puts the programs under test and the kernel's modules on it, and goes.
export PATH=/bin:/sbin:/usr/bin:/usr/sbin
/bin/busybox mkdir -p /dev /proc /disk /bin /sbin /usr/bin /usr/sbin
/bin/busybox mount -t devtmpfs -o mode=755 dev /dev
/bin/busybox mount -t proc proc /proc
/bin/busybox --install -s
for module in virtio_pci virtio_blk; do modprobe $module; done
mount -t ext4 /dev/vda /disk || echo "the disk can't be mounted" >/dev/ttyS0
mount -t tmpfs -o mode=755 guest /disk/guest
cp -a /guest/. /disk/guest/
cp -a /lib/modules /disk/lib/
umount /proc
mount -o move /dev /disk/dev
exec switch_root /disk /guest/busybox sh /guest/second
