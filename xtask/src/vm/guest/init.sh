#!/bin/busybox sh
# The guest's first program: puts the host's root under a throw-away overlay and goes there.
export PATH=/bin
/bin/busybox --install -s /bin
mkdir -p /proc /sys /dev /host /scratch /root
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev

fail() { echo "guest: $*" > /dev/ttyS0; poweroff -f; }

for word in $(cat /proc/cmdline); do
    case $word in
        vm_job=*) job=${word#vm_job=} ;;
        vm_modules=*) modules=${word#vm_modules=} ;;
    esac
done
while read -r module; do
    insmod "/modules/$module" || fail "cannot load $module"
done < /modules/list

nine=trans=virtio,version=9p2000.L,msize=512000
mount -t 9p -o "ro,cache=loose,$nine" host /host || fail "no host"
mount -t tmpfs -o mode=755 scratch /scratch
mkdir -p /scratch/upper /scratch/work
mount -t overlay -o lowerdir=/host,upperdir=/scratch/upper,workdir=/scratch/work root /root || fail "no root"

cd /root || fail "no root"
mkdir -p proc sys dev run tmp usr/lib/modules ".$job"
mount -t 9p -o "$nine" job ".$job" || fail "no job"
mount --bind "/host$modules/lib/modules" usr/lib/modules
mount -t tmpfs run run
mount -t tmpfs -o mode=1777 tmp tmp
for one in proc sys dev; do mount --move /$one $one; done
mkdir -p dev/shm dev/pts
mount -t tmpfs shm dev/shm
mount -t devpts pts dev/pts
exec switch_root /root /bin/sh "$job/main" "$job"
