# Ends the servers and removes their data when the process that started them is gone, however it went.
#
# Its standard input is a pipe whose other end only that process holds: it closes at exit, at a crash and at kill -9.
# Its standard output is the locked file that keeps the next stack out of the directory until the sweep is over.
# usage: watchdog remove|keep ROOT DIRECTORY...
trap '' HUP INT TERM
data=$1
root=$2
shift 2
read -r _

# First a request to quit at once, which lets Postgres give back its shared memory; then no more requests.
sweep QUIT "$@"
round=0
while [ "$round" -lt 40 ] && sweep 0 "$@"; do
    sleep 0.05
    round=$((round + 1))
done
sweep_away "$@"
[ "$data" = keep ] || rm -rf "$root"
