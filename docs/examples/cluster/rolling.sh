#!/bin/sh
# Restarts one engine after the other, each when the one before serves again. Clients of an engine that stops get a 1012 and come back,
# through nginx, to another one. On machines of their own:
#   RESTART='ssh $1 systemctl restart connmix-engine' ./rolling.sh 10.0.0.2=10.0.0.2:6789 10.0.0.3=10.0.0.3:6789
set -eu
cd "$(dirname "$0")"
restart=${RESTART:-./node.sh restart \$1}
[ $# -gt 0 ] || set -- engine-1=127.0.0.1:6789 engine-2=127.0.0.1:6799

ready() {
    [ "$(curl -s -o /dev/null -m 2 -w '%{http_code}' "http://$1/readyz")" = 200 ]
}

for engine; do
    ready "${engine#*=}" || { echo "${engine%%=*} does not serve: nothing was restarted" >&2 && exit 1; }
done
for engine; do
    name=${engine%%=*} api=${engine#*=}
    echo "restarting $name"
    sh -c "$restart" restart "$name"
    waited=0
    until ready "$api"; do
        waited=$((waited + 1))
        if [ "$waited" -gt 600 ]; then
            echo "$name does not serve after a minute; the others were left as they are" >&2
            exit 1
        fi
        sleep 0.1
    done
    # So that those who came to the others can spread again before the next one stops.
    sleep "${PAUSE:-2}"
done
