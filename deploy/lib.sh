# What the scripts of this folder share: Debian packages, the project's .venv, messages.
# Source it; it changes no file by itself.
#
# Exit statuses of all these scripts:
#   1  something failed or differs      3  needed packages cannot be installed
#   2  wrong usage                      4  /dev/fuse cannot be opened
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=$root/.venv

# Sort order, decimal points and messages must not depend on the user; a module system's Python
# path must not reach the project's Python.
export LC_ALL=C.UTF-8
unset PYTHONHOME PYTHONPATH

# To build pyfuse3 (there is no binary of it), to install Python packages, to mount.
packages_run=(ca-certificates fuse3 gcc libc6-dev libfuse3-dev openssl pkg-config python3 python3-dev
    python3-venv)
# The real programs that the tests and the quickstart run on a mount.
packages_build=(bzip2 coreutils diffutils findutils gzip make procps tar util-linux xz-utils)
# A Slurm cluster on this machine (deploy/cluster), and MPI programs to run in it.
packages_slurm=(fuse3 iproute2 munge slurm-client slurm-wlm-basic-plugins slurmctld slurmd util-linux)
packages_mpi=(gcc libopenmpi-dev openmpi-bin python3-h5py-mpi python3-mpi4py)
packages_test=("${packages_build[@]}" acl attr fio g++ git postgresql rsync sqlite3
    "${packages_slurm[@]}" "${packages_mpi[@]}")

die() { # STATUS MESSAGE...
    printf '%s: %s\n' "${0##*/}" "${*:2}" >&2
    exit "$1"
}

usage() { # prints the comment at the head of the calling script
    sed -n '2,/^[^#]/ { s/^# \{0,1\}//p }' "$0"
}

now_us() { echo "${EPOCHREALTIME/./}"; }

seconds_since() { # START_US, as now_us gave it; prints 12.3
    local tenths=$((($(now_us) - $1 + 50000) / 100000))
    echo "$((tenths / 10)).$((tenths % 10))"
}

# Runs a noisy command, announced by one line. Its output is shown only when it fails. The log is
# a file, not a pipe, so that a process left in the background holds nobody up; it has no name.
quietly() { # WHAT COMMAND...
    local name log start status=0
    name=$(mktemp) start=$(now_us)
    exec {log}<>"$name"
    rm "$name"
    printf '%-50s ' "$1"
    "${@:2}" >&"$log" 2>&1 </dev/null || status=$?
    if ((status)); then
        printf '   failed\n'
        tail -n 30 "/dev/fd/$log" >&2
    else
        printf '%7s s\n' "$(seconds_since "$start")"
    fi
    exec {log}>&-
    return "$status"
}

# --- Debian packages ------------------------------------------------------------------------------

as_root() {
    if ((EUID == 0)); then "$@"; else sudo -n "$@"; fi
}

missing_packages() { # PACKAGE...
    local installed
    installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "$@" 2>/dev/null || true)
    comm -23 <(printf '%s\n' "$@" | sort -u) <(sed -n 's/^installed //p' <<<"$installed" | sort -u)
}

# Debian's postgresql makes and starts a database when it is installed. Only its programs are
# needed: where it was never installed, it is told so. A file that is there already is kept.
no_database_of_its_own() {
    local file=/etc/postgresql-common/createcluster.conf
    [[ ! -e $file ]] || return 0
    as_root mkdir -p "${file%/*}" &&
        as_root tee "$file" >/dev/null <<<'create_main_cluster = false'
}

# Runs COMMAND, as root, while a policy forbids packages to start services. A policy that is there
# already is kept, and so is the one of another script that installs at the same time: one waits.
without_services() { # COMMAND...
    # shellcheck disable=SC2016  # for the inner shell
    as_root flock --timeout 600 /usr/sbin bash -c '
        policy=/usr/sbin/policy-rc.d
        if [[ ! -e $policy ]]; then
            trap "rm -f $policy" EXIT
            printf "#!/bin/sh\nexit 101\n" >$policy && chmod 755 $policy || exit
        fi
        "$@"' without-services "$@"
}

# Programs of packages are needed, never their services: the Slurm and munge that deploy/cluster
# runs are its own, and so are the servers of the benchmark. They must not come up with the machine, either.
apt_install() { # PACKAGE...
    local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300) service unit
    if [[ " $* " == *' postgresql '* ]]; then no_database_of_its_own || return; fi
    as_root "${apt[@]}" update &&
        without_services "${apt[@]}" install -y --no-install-recommends "$@" || return
    if [[ ! -e /etc/mtab ]]; then # as in a bare debootstrap; fusermount3 of fuse3 wants it
        as_root ln -sf ../proc/self/mounts /etc/mtab || return
    fi
    for service in munge slurmctld slurmd glusterfs-server moosefs-master moosefs-chunkserver; do
        [[ " $* " == *" $service "* ]] || continue
        unit=${service/glusterfs-server/glusterd}
        if command -v systemctl >/dev/null; then
            as_root systemctl --quiet disable "$unit" || true # not a machine of systemd's
        fi
        if [[ $unit == moosefs-* && -x /etc/init.d/$unit ]]; then
            as_root update-rc.d "$unit" disable || true
        fi
    done
}

need_packages() { # PACKAGE...
    local missing why
    command -v dpkg-query >/dev/null || die 3 "no Debian here; it needs the equivalents of: $*"
    mapfile -t missing < <(missing_packages "$@")
    ((${#missing[@]})) || return 0
    if ((EUID != 0)) && ! sudo -n true 2>/dev/null; then
        why='not root, and sudo asks for a password or is missing'
    elif quietly "installing ${#missing[@]} Debian packages" apt_install "${missing[@]}"; then
        return 0
    else
        why='apt-get failed, see above'
        mapfile -t missing < <(missing_packages "$@")
    fi
    die 3 "missing Debian packages: ${missing[*]} ($why). As root:
    apt-get update && apt-get install --no-install-recommends ${missing[*]}"
}

# Puts PACKAGE's upstream tarball into FOLDER. apt-get is given a state of its own and the system's
# sources with deb turned into deb-src: no root needed, nothing of the system changed.
fetch_source() { # PACKAGE FOLDER
    local own file apt status=0
    own=$(mktemp -d)
    mkdir -p "$own"/{lists/partial,cache/archives/partial,sources} "$2"
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
        [[ ! -f $file ]] || sed -nE 's/^[[:space:]]*deb[[:space:]]/deb-src /p' "$file"
    done >"$own/sources.list"
    for file in /etc/apt/sources.list.d/*.sources; do
        [[ ! -f $file ]] || sed -E 's/^Types:.*/Types: deb-src/' "$file" >"$own/sources/${file##*/}"
    done
    apt=(timeout 240 apt-get -q -o Dir::Etc::SourceList="$own/sources.list"
        -o Dir::Etc::SourceParts="$own/sources" -o Dir::State::Lists="$own/lists"
        -o Dir::Cache="$own/cache" -o APT::Sandbox::User= -o Acquire::Languages=none)
    "${apt[@]}" update || true # one source without source packages must not spoil the others
    (cd "$own" && "${apt[@]}" source --download-only --only-source "$1") &&
        mv "$own/$1"_*.orig.tar.* "$2" || status=$?
    rm -rf "$own"
    return "$status"
}

# --- the project's .venv --------------------------------------------------------------------------

# What .venv was made from: moving the checkout or another Python makes it void.
venv_identity() {
    echo "$root"
    /usr/bin/python3 --version
    echo "${GKFS_COMPILE-}"
    (cd "$root" && sha256sum pyproject.toml setup.py {gkfs,gkfs/commands,client,daemon}/*.py | sha256sum)
}

venv_is_ready() { # EXTRA
    local stamp=$venv/installed-$1
    [[ -x $venv/bin/gkfs && -f $stamp && $(<"$stamp") == "$(venv_identity)" ]]
}

venv_works() {
    [[ $(sed -n 1p "$venv/made-for" 2>/dev/null) == "$root" ]] &&
        "$venv/bin/python" -m pip --version &>/dev/null
}

# Installs the project into .venv, compiled (setup.py); anew when a module has changed. EXTRA: run, test or dev.
need_venv() { # EXTRA
    local extra=$1 lock
    venv_is_ready "$extra" && return 0
    /usr/bin/python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        die 3 "needs Python 3.11 or newer; $(/usr/bin/python3 --version) is installed"
    exec {lock}<"$root"
    flock "$lock" # two scripts at a time must not install into one .venv
    if ! venv_is_ready "$extra"; then
        venv_works || quietly 'making .venv' make_venv || die 3 "cannot make $venv"
        quietly "installing the project's Python packages ($extra)" pip_install "$extra" ||
            die 3 "pip cannot install what pyproject.toml asks for ($extra), see above"
    fi
    exec {lock}<&-
}

make_venv() {
    /usr/bin/python3 -m venv --clear "$venv" &&
        echo "$root" >"$venv/made-for"
}

pip_install() { # EXTRA
    local pip=("$venv/bin/python" -m pip --quiet --disable-pip-version-check) wheel extra
    if [[ ! -f $venv/wheel/made-from || $(<"$venv/wheel/made-from") != "$(venv_identity)" ]]; then
        rm -rf "$venv/wheel"
        "${pip[@]}" wheel --no-deps --wheel-dir "$venv/wheel" "$root" || return
        venv_identity >"$venv/wheel/made-from"
    fi
    wheel=$(compgen -G "$venv/wheel/*.whl") || return
    extra=$1
    [[ $extra == run ]] && extra='' || extra="[$extra]"
    # Of the same version is not of the same source.
    "${pip[@]}" install --no-deps --force-reinstall "$wheel" && "${pip[@]}" install "$wheel$extra" || return
    for extra in run test dev; do # each holds the ones before it
        venv_identity >"$venv/installed-$extra"
        [[ $extra != "$1" ]] || break
    done
}

# --- FUSE -----------------------------------------------------------------------------------------

fuse_problem() { # prints why no file system can be mounted, if so
    if [[ ! -c /dev/fuse ]]; then
        echo '/dev/fuse does not exist here (modprobe fuse, or start the container with it)'
    elif ! { : <>/dev/fuse; } 2>/dev/null; then
        echo "/dev/fuse cannot be opened by $(id -un): $(stat -c '%A %U:%G' /dev/fuse)"
    fi
}
