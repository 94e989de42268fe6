#!/bin/bash
# A login session for a user who exists nowhere else: his own systemd, bus, journal, home and network, out of the
# system's own programs. It lives in private namespaces, so nothing of the machine changes and nothing outlives it.
#
#   session.sh begin           as root. Says "ready PID" once systemd answers, and ends when its input does.
#   /srv/session.sh enter ARG...    inside, as root: runs a program as the user, as a part of his session.
#
# Environment of begin: SESSION_BIN, a folder shown at /srv/bin; SESSION_PROGRAM, a file shown at /srv/program;
# SESSION_MODEL, a folder shown at /srv/model, if it is there.
# Beyond bash it needs systemd, dbus, dbus-user-session, util-linux and iproute2.
set -euo pipefail

user=desk uid=4711
home=/home/$user
runtime=/run/user/$uid
group_root=/sys/fs/cgroup
login_scope=$group_root/user.slice/user-$uid.slice/session-1.scope

# Becomes the user, with what a login gives and nothing of ours.
become_user() {
    exec setpriv --reuid "$uid" --regid "$uid" --clear-groups --inh-caps=-all --bounding-set=-all -- \
        env --ignore-environment HOME="$home" USER="$user" LOGNAME="$user" SHELL=/bin/bash LANG=C.UTF-8 \
        PATH=/srv/bin:/usr/bin:/bin:/usr/sbin:/sbin XDG_RUNTIME_DIR="$runtime" \
        DBUS_SESSION_BUS_ADDRESS="unix:path=$runtime/bus" "$@"
}

# Waits up to ten seconds for sockets.
await_sockets() {
    local socket try
    for socket in "$@"; do
        for ((try = 0; try < 200; try++)); do
            [[ -S $socket ]] && continue 2
            sleep 0.05
        done
        echo "$socket did not appear" >&2
        return 1
    done
}

# Starts a program in the background, in a control group of its own.
in_group() {
    local group=$1
    shift
    mkdir -p "$group"
    (
        echo 0 >"$group/cgroup.procs"
        cd /
        "$@"
    ) </dev/null >/dev/null &
}

remove_groups() {
    find "$1" -depth -type d -exec rmdir {} + 2>/dev/null || true
}

begin() {
    local hierarchy
    hierarchy=$(findmnt --noheadings --raw --types cgroup2 --output TARGET | head --lines=1)
    [[ -n $hierarchy ]] || { echo "there is no unified hierarchy of control groups" >&2; exit 1; }
    # What sessions that were killed have left.
    for box in "$hierarchy"/e2e-session.*; do
        [[ ! -d $box || -d /proc/${box##*.} ]] || remove_groups "$box"
    done
    box=$hierarchy/e2e-session.$$
    mkdir "$box"
    trap 'remove_groups "$box"' EXIT
    (
        echo 0 >"$box/cgroup.procs"
        exec unshare --mount --pid --cgroup --ipc --net --uts --fork --kill-child=KILL -- "$0" inside
    )
}

# The first process of the session.
inside() {
    local own_pid
    # Still the machine's /proc: this is the number by which others find the session.
    read -r own_pid _ </proc/self/stat
    mount --make-rprivate /
    mount -t proc proc /proc
    ip link set lo up
    hostname desktop

    mount -t tmpfs -o mode=755 tmpfs /srv
    mkdir /srv/etc /srv/bin
    # This file may lie where the session sees a folder of its own.
    cp "$0" /srv/session.sh
    mount --bind "$SESSION_BIN" /srv/bin
    if [[ -n ${SESSION_PROGRAM:-} ]]; then
        touch /srv/program
        mount --bind "$SESSION_PROGRAM" /srv/program
    fi
    if [[ -d ${SESSION_MODEL:-} ]]; then
        mkdir /srv/model
        mount --bind "$SESSION_MODEL" /srv/model
    fi
    for file in passwd group; do cp "/etc/$file" /srv/etc/; done
    echo "$user:x:$uid:$uid::$home:/bin/bash" >>/srv/etc/passwd
    echo "$user:x:$uid:" >>/srv/etc/group
    for file in passwd group; do mount --bind "/srv/etc/$file" "/etc/$file"; done

    for folder in /run /home /tmp /var/log /var/lib/systemd; do mount -t tmpfs -o mode=755 tmpfs "$folder"; done
    chmod 1777 /tmp
    install --directory --owner=$uid --group=$uid --mode=0700 $home $runtime
    # As if the machine had been booted by systemd; a journal on disk is one that each user reads his part of.
    mkdir -p /run/systemd/{system,journal,unit-root,propagate,incoming} /run/lock /run/log \
        "/var/log/journal/$(</etc/machine-id)"
    touch /run/systemd/journal/flushed

    mount -t cgroup2 none $group_root
    in_group $group_root/system.slice/systemd-journald.service /lib/systemd/systemd-journald
    await_sockets /run/systemd/journal/socket /run/systemd/journal/stdout
    local manager=$group_root/user.slice/user-$uid.slice/user@$uid.service
    mkdir -p $manager $login_scope
    chown -R $uid:$uid $manager
    in_group $manager become_user /lib/systemd/systemd --user --log-target=journal
    await_sockets $runtime/systemd/private $runtime/bus

    echo "ready $own_pid"
    # Who began the session holds the other end.
    cat >/dev/null
}

case ${1:-} in
begin) begin ;;
inside) inside ;;
enter)
    shift
    echo 0 >$login_scope/cgroup.procs
    cd $home
    become_user "$@"
    ;;
*)
    echo "usage: session.sh begin | enter PROGRAM [ARGUMENT...]" >&2
    exit 2
    ;;
esac
