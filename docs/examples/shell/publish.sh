#!/usr/bin/env bash
# Publishes one job to ffpool with amqp-publish, asks the API whether it has arrived and how it ends, and exits with 0 if it
# completed.
#
# usage: publish.sh SCENARIO OUTPUT [INPUT]      without INPUT a test picture of two seconds is encoded
#
# amqp-publish waits for no confirm of the broker, so what it sent may be lost without a word. This asks the ledger instead, and
# publishes again until the job is on record: the id makes that safe.
#
# Needs amqp-tools, curl, jq and uuid-runtime. Environment:
#   FFPOOL_AMQP_URL     amqp://user:password@host:5672/%2f; amqps://... with ?cacertfile=ca.pem, and where the broker asks for a
#                       certificate &certfile=me.pem&keyfile=me.pem
#   FFPOOL_API_URL      https://host:8080
#   FFPOOL_API_KEY      a key that may read
#   FFPOOL_API_CA_FILE  the authority of the API's certificate, unless the system knows it
#   TRACEPARENT         the W3C trace to which the job belongs (optional)
set -euo pipefail

readonly QUEUE=batch    # live, default or batch: the exchange is jobs.<queue>
readonly PRIORITY=low   # high, medium or low: the routing key; high.gpu for the pool gpu
readonly PUBLISH_SECS=20
readonly ON_RECORD_SECS=5  # how long the ledger may take to read a job; then it is published again
readonly TRIES=3
readonly PATIENCE_SECS=60  # how long the API may be away

fail() { printf 'publish.sh: %s\n' "$1" >&2 && exit 1; }

case $# in 2 | 3) ;; *) fail 'usage: publish.sh SCENARIO OUTPUT [INPUT]' ;; esac
for name in FFPOOL_AMQP_URL FFPOOL_API_URL FFPOOL_API_KEY; do
    [ -n "${!name-}" ] || fail "$name is not set"
done

# Its id follows from what it says, so publishing it again makes no second job. A program with ids of its own (an order, a row)
# takes those instead: any UUID will do.
job=$(jq -cn --arg scenario "$1" --arg output "$2" --arg input "${3-}" --arg queue "$QUEUE" --arg priority "$PRIORITY" '
    {$scenario, $output, $queue, $priority} + if $input == "" then {parameters: {duration: 2}} else {$input} end')
id=$(uuidgen --sha1 --namespace @url --name "$job")
job=$(jq -c --arg id "$id" '{$id} + .' <<<"$job")

# api PATH: sets `status` and `answer`; a status of 000 is no answer. The key is no argument, which everybody on the machine can
# read.
api() {
    answer=$(curl -sS -m 15 ${FFPOOL_API_CA_FILE:+--cacert "$FFPOOL_API_CA_FILE"} -w '\n%{http_code}' \
        --config <(printf 'header = "X-API-Key: %s"\n' "$FFPOOL_API_KEY") "$FFPOOL_API_URL$1" 2>&1) || true
    status=${answer##*$'\n'}
    answer=${answer%$'\n'*}
    case $status in
    200 | 404 | 429 | 500 | 503 | 000) ;;
    *) fail "the API answered $status: $answer" ;;
    esac
}

# decoded TEXT: with what %xx stands for, as in any URL.
decoded() { printf '%b' "${1//\%/\\x}"; }

# The URL taken apart for amqp-publish, which reads no files from it. Without TLS the password goes into a file that only we can
# read. With TLS amqp-publish (0.11) takes it in the URL alone, where everybody on this machine can see it while it publishes.
publish() {
    local url=${FFPOOL_AMQP_URL%%\?*} query='' login host options=() pair
    case $FFPOOL_AMQP_URL in *\?*) query=${FFPOOL_AMQP_URL#*\?} ;; esac
    for pair in ${query//&/ }; do
        case $pair in
        cacertfile=*) options+=(--cacert "$(decoded "${pair#*=}")") ;;
        certfile=*) options+=(--cert "$(decoded "${pair#*=}")") ;;
        keyfile=*) options+=(--key "$(decoded "${pair#*=}")") ;;
        esac
    done
    [ -z "${TRACEPARENT-}" ] || options+=(--header "traceparent: $TRACEPARENT")
    options+=(--exchange "jobs.$QUEUE" --routing-key "$PRIORITY" --persistent --content-type application/json --body "$job")
    case $url in
    amqps:*) timeout "$PUBLISH_SECS" amqp-publish --url "$url" "${options[@]}" ;;
    *)
        url=${url#*://}
        login=${url%@*}
        url=${url##*@}
        host=${url%%/*}
        case $host in *:*) options+=(--port "${host##*:}") ;; esac
        case $url in */*) options+=(--vhost "$(decoded "${url#*/}")") ;; esac
        timeout "$PUBLISH_SECS" amqp-publish --server "${host%:*}" "${options[@]}" \
            --authfile <(printf 'username:%s\npassword:%s\n' "$(decoded "${login%%:*}")" "$(decoded "${login#*:}")")
        ;;
    esac || fail 'RabbitMQ did not take the job: the reason stands above'
}

# Whether the ledger has the job, within ON_RECORD_SECS.
is_on_record() {
    local ends=$((SECONDS + ON_RECORD_SECS))
    while api "/v1/jobs/$id" && [ "$status" != 200 ]; do
        [ "$SECONDS" -lt "$ends" ] || return 1
        sleep 1
    done
}

tries=0
until [ "$tries" -gt 0 ] && is_on_record; do
    [ "$((tries += 1))" -le "$TRIES" ] ||
        fail "the job is not on record after $TRIES tries (the API's last answer: $status): does jobs.$QUEUE exist, is a dispatcher running?"
    publish
    printf '%s: published\n' "$id"
done

patience_ends=$((SECONDS + PATIENCE_SECS))
while :; do
    api "/v1/jobs/$id"
    if [ "$status" = 200 ]; then
        patience_ends=$((SECONDS + PATIENCE_SECS))
        state=$(jq -r .state <<<"$answer")
        case $state in
        completed)
            jq -r '"\(.id): completed as attempt \(.attempt): \(.spec.output)"' <<<"$answer"
            exit 0
            ;;
        failed | cancelled | rejected)
            fail "job $id $state: $(jq -r 'if .faults != [] then [.faults[] | "\(.path): \(.message)"] | join("; ")
                else .failure.message // .reason // "no reason is on record" end' <<<"$answer")"
            ;;
        esac
    fi
    [ "$SECONDS" -lt "$patience_ends" ] || fail "the job was published, but cannot be followed: the API answered $status"
    sleep 1
done
