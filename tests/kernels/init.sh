#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# The first process of a virtual machine: makes its file systems and starts llb-guest. It installs nothing.
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
for module in /modules/*; do $b insmod "$module" || echo "cannot load $module"; done
options=trans=virtio,version=9p2000.L,msize=512000
$b mount -t 9p -o $options,cache=loose,ro host /host
if [ -b /dev/vda ]; then
    # The machine has a system of its own.
    $b mount -t ext4 /dev/vda /root
else
    # The root is the host's, below a layer of its own that keeps what the machine writes.
    $b mount -t tmpfs -o size=50% upper /upper
    $b mkdir /upper/files /upper/work
    $b mount -t overlay -o lowerdir=/host,upperdir=/upper/files,workdir=/upper/work root /root
fi
cd /root || exit
for folder in proc sys dev; do $b mount -o move /$folder /root/$folder; done
$b mount -t tmpfs run run
$b mkdir -p run/lock run/share run/host
# Files that the host changes later would be stale in the root: new ones come here.
$b mount -t 9p -o $options,cache=none share run/share
release=$($b uname -r)
$b mkdir -p "lib/modules/$release"
$b mount -o bind "/host@MODULES@/$release" "lib/modules/$release"
if [ -b dev/vda ]; then
    $b mount -o bind /host run/host
    # systemd is its first process, and starts llb-guest last.
    $b mkdir -p run/systemd/system/multi-user.target.wants
    unit=run/systemd/system/llb-guest.service
    $b printf '[Unit]\nDescription=Commands of the test\n[Service]\nExecStart=/run/host@GUEST@\n' > $unit
    $b ln -s ../llb-guest.service run/systemd/system/multi-user.target.wants/
    exec $b switch_root /root /sbin/init
fi
$b mkdir -p dev/pts dev/shm
$b mount -t devpts pts dev/pts
$b mount -t tmpfs shm dev/shm
$b mount -t bpf bpf sys/fs/bpf
$b mount -t cgroup2 cgroup sys/fs/cgroup
# The real one takes a second to start in an emulated machine.
$b mkdir run/bin && $b ln -s "@GUEST@" run/bin/curl
export PATH=/run/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TMPDIR=/tmp
ulimit -n 65536
# A shell as process 1 also collects ended processes that have lost their parents.
exec $b switch_root /root /bin/sh -c '@GUEST@; echo "llb-guest has ended: $?"; echo o > /proc/sysrq-trigger; sleep 60'
