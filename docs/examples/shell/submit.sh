#!/usr/bin/env bash
# Hands one job to ffpool over HTTP with curl, follows its events until it has ended, and exits with 0 if it completed.
#
# usage: submit.sh SCENARIO OUTPUT [INPUT]      without INPUT a test picture of two seconds is encoded
#
# No RabbitMQ is needed here, and an invalid job is refused at once with everything that is wrong with it.
#
# Needs curl, jq and uuid-runtime. Environment:
#   FFPOOL_API_URL      https://host:8080
#   FFPOOL_API_KEY      a key that may submit and read
#   FFPOOL_API_CA_FILE  the authority of the API's certificate, unless the system knows it
#   CALLBACK_URL        who is told of the job's end, see receive_callback.py (optional)
#   TRACEPARENT         the W3C trace to which the job belongs (optional)
set -euo pipefail

readonly PATIENCE_SECS=60 # how long the API may be away
readonly SILENCE_SECS=60  # the API sends a comment every 15 seconds; a stream as silent as this is dead

fail() { printf 'submit.sh: %s\n' "$1" >&2 && exit 1; }

case $# in 2 | 3) ;; *) fail 'usage: submit.sh SCENARIO OUTPUT [INPUT]' ;; esac
for name in FFPOOL_API_URL FFPOOL_API_KEY; do
    [ -n "${!name-}" ] || fail "$name is not set"
done

# Its id follows from what it says, so handing it in again makes no second job. A program with ids of its own (an order, a row)
# takes those instead: any UUID will do.
job=$(jq -cn --arg scenario "$1" --arg output "$2" --arg input "${3-}" --arg callback "${CALLBACK_URL-}" '
    {$scenario, $output, queue: "default", priority: "medium"}
    + if $input == "" then {parameters: {duration: 2}} else {$input} end
    + if $callback == "" then {} else {callback_url: $callback} end')
id=$(uuidgen --sha1 --namespace @url --name "$job")
job=$(jq -c --arg id "$id" '{$id} + .' <<<"$job")

# api COMMAND...: a command of curl, with the key, which is no argument, because everybody on the machine can read those.
api() {
    "$@" -sS ${FFPOOL_API_CA_FILE:+--cacert "$FFPOOL_API_CA_FILE"} \
        --config <(printf 'header = "X-API-Key: %s"\n' "$FFPOOL_API_KEY")
}

# Tries again while the API is away or asks to wait; the id makes that safe.
ends=$((SECONDS + PATIENCE_SECS))
while :; do
    answer=$(api curl -m 15 -w '\n%{http_code}' -H 'Content-Type: application/json' ${TRACEPARENT:+-H "traceparent: $TRACEPARENT"} \
        --data "$job" "$FFPOOL_API_URL/v1/jobs" 2>&1) || true
    status=${answer##*$'\n'}
    answer=${answer%$'\n'*}
    case $status in
    200 | 201) break ;;
    000 | 429 | 500 | 503) [ "$SECONDS" -lt "$ends" ] || fail "the API cannot be reached: $answer" ;;
    *) fail "the API answered $status: $(jq -r '.detail, (.faults // [] | .[] | "\(.path): \(.message)")' <<<"$answer" | paste -sd ' ')" ;;
    esac
    sleep 1
done
printf '%s: %s\n' "$id" "$(jq -r 'if .number then "job \(.number), \(.state)" else .state end' <<<"$answer")"

# A stream begins with the job as it is, so connecting again misses nothing.
ends=$((SECONDS + PATIENCE_SECS))
while [ "$SECONDS" -lt "$ends" ]; do
    exec {stream}< <(api exec curl -f -N "$FFPOOL_API_URL/v1/jobs/$id/events")
    curl=$!
    was_open=
    while IFS=: read -r -t "$SILENCE_SECS" -u "$stream" field value; do
        was_open=yes
        case $field in
        event) event=${value# } ;;
        data)
            if [ "$event" = progress ]; then
                jq -r '"\(.job): \(.phase) \(.percent // 0 | floor) %"' <<<"$value"
                continue
            fi
            state=$(jq -r .state <<<"$value")
            case $state in
            completed) jq -r '"\(.id): completed as attempt \(.attempt)"' <<<"$value" && exit 0 ;;
            failed | cancelled | rejected) fail "job $id $state: $(jq -r '.failure.message // .reason // "no reason is on record"' <<<"$value")" ;;
            *) printf '%s: %s\n' "$id" "$state" ;;
            esac
            ;;
        esac
    done
    # Over, or silent: then curl would wait for ever.
    kill "$curl" 2>/dev/null || true
    exec {stream}<&-
    # Patience begins where a stream ends, however long it was open.
    [ -z "$was_open" ] || ends=$((SECONDS + PATIENCE_SECS))
    sleep 1
done
fail "the job was handed in, but cannot be followed: the reason stands above"
