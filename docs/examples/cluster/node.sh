#!/bin/sh
# Starts and stops a node of this folder:  ./node.sh start|stop|restart center|engine-1|engine-2
set -eu
cd "$(dirname "$0")"
connmix=${CONNMIX:-connmix}
node=$2

runs() {
    [ -f "$node.pid" ] && grep -qs '^State:[[:space:]]*[^ZX]' "/proc/$(cat "$node.pid")/status"
}

start() {
    if runs; then
        echo "$node runs already" >&2
        exit 1
    fi
    # "engine" of "engine-1" is the role.
    nohup "$connmix" "${node%%-*}" -f "$node.yaml" >>"$node.log" 2>&1 </dev/null &
    echo $! >"$node.pid"
}

stop() {
    if runs; then
        # Its clients get what they are owed and a 1012, within shutdownTimeout.
        kill -TERM "$(cat "$node.pid")"
        while runs; do sleep 0.1; done
    fi
    rm -f "$node.pid"
}

case $1 in
start) start ;;
stop) stop ;;
restart) stop && start ;;
*) echo "usage: $0 start|stop|restart NODE" >&2 && exit 2 ;;
esac
