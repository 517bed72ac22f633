#!/bin/sh
# Publishes with curl, all over one connection; each argument is a request's body:
#   sh publish.sh '{"c":"news","d":"Hello"}' '{"c":"news","d":"Hello again"}'
set -eu
url=${CONNMIX_API:-http://127.0.0.1:6789}/v1/mesh/publish
user=${CONNMIX_USER:-backend:change-me}

next=
for body do
    # --fail-with-body: what the engine refuses is printed, and the exit code is 22.
    set -- "$@" $next --silent --show-error --fail-with-body --max-time 5 --user "$user" \
        --header 'Content-Type: application/json' --write-out '\n' --data-raw "$body" "$url"
    shift
    next=--next
done
exec curl --fail-early "$@"
