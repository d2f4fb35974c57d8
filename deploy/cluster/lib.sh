# What the scripts of this folder share. Source it; it changes nothing by itself.
#
# A "node" is one tree of processes in network, mount, UTS, IPC, PID and cgroup namespaces of its
# own. The process unshare(1), the holder, has it as its only child: node-init, which is pid 1
# inside and the way in. DIR/pids/K names the holder and when it started, so that another process
# with a recycled number is never taken for it.
# shellcheck shell=bash disable=SC2034,SC2154  # used, and $dir set, by those that source it

. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

net=10.77.0                  # node K is $net.K
ctl_address=$net.254         # node 0, "ctl": slurmctld, munged, and where one logs in
users=(hpc:20001 hpc2:20002) # ordinary users, known inside the nodes only

cluster_folder() { # [DIR]
    realpath -m "${1:-${GKFS_CLUSTER_DIR:-/tmp/gkfs-cluster}}"
}

node_name() { # K
    if (($1 == 0)); then echo ctl; else echo "node$1"; fi
}

start_time() { # PID; prints clock ticks since boot, field 22 of its stat
    sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20
}

holder_of() { # K; prints the holder's pid if the node is up
    local pid start
    [[ -f $dir/pids/$1 ]] && read -r pid start <"$dir/pids/$1" || return 0
    if [[ -n $start && $(start_time "$pid") == "$start" ]]; then echo "$pid"; fi
}

init_of() { # K; prints the pid, seen from outside, of the node's pid 1 if it is up
    local holder
    holder=$(holder_of "$1")
    [[ -z $holder ]] || tr -d ' ' 2>/dev/null <"/proc/$holder/task/$holder/children" || true
}

# What follows `nsenter --target PID` to run a command in a node; its root, too: the machine may be a chroot.
inside=(--root --mount --uts --ipc --net --pid --cgroup env --chdir=/ -u SLURM_CONF)

in_node() { # K COMMAND...: as root, in /
    local pid
    pid=$(init_of "$1")
    [[ -n $pid ]] || return 1
    nsenter --target "$pid" "${inside[@]}" "${@:2}"
}

cgroup_folder() { # prints where this cluster's cgroups go; nothing where there are none to use
    local name
    name=gkfs-$(md5sum <<<"$dir" | cut -c1-8)
    if [[ -f /sys/fs/cgroup/cgroup.controllers ]]; then
        echo "/sys/fs/cgroup/$name"
    elif [[ -d /sys/fs/cgroup/freezer ]]; then
        echo "/sys/fs/cgroup/freezer/$name"
    fi
}

namespace_problem() { # prints why no node can be made here, if so
    local problem
    if ((EUID != 0)); then
        echo 'needs root, for namespaces and mounts'
    elif [[ ! -c /dev/fuse ]]; then
        echo 'no /dev/fuse'
    elif ! problem=$(unshare --net --mount --uts --ipc --cgroup --pid --fork --mount-proc \
        sh -c 'mount -t tmpfs none /mnt && mount -t sysfs none /sys' 2>&1); then
        echo "no namespaces: $(tr '\n' ' ' <<<"$problem")"
    fi
}
