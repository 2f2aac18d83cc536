# Signals the processes of a stack's servers, which it knows by their working directory.
#
# A working directory marks launcher shells, forked helpers, daemons and Postgres' backends alike, whatever session or
# process group they have moved to; nothing else runs in those directories. This runs as the servers' own user, because
# root in a container without CAP_SYS_PTRACE may not look at another user's working directory.

# sweep SIGNAL DIRECTORY...: succeeds while there is a process to signal.
sweep() {
    signal=$1
    shift
    found=
    for process in /proc/[0-9]*; do
        for directory; do
            if [ "$process/cwd" -ef "$directory" ] && kill -"$signal" "${process#/proc/}" 2>/dev/null; then
                found=yes
            fi
        done
    done
    [ -n "$found" ]
}

# sweep_away DIRECTORY...: returns when no such process is left.
sweep_away() {
    while sweep KILL "$@"; do sleep 0.05; done
}
