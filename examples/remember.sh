#!/bin/sh
# Stores a memory with mosquitto_rr (MQTT 5 request and response) and prints the reply.
#
# remember.sh HOST PORT NODE CONTENT   (environment: MQTT_CA for TLS, MQTT_USERNAME and MQTT_PASSWORD)
set -eu
host=$1 port=$2 node=$3 content=$4
user=${MQTT_USERNAME:-anonymous}

# JSON wants backslash and quotation mark escaped, and no line breaks.
escaped=$(printf %s "$content" | tr '\n\t' '  ' | sed 's/[\\"]/\\&/g')

set -- -V 5 -h "$host" -p "$port" -q 1 -W 10
[ -z "${MQTT_CA:-}" ] || set -- "$@" --cafile "$MQTT_CA"
[ -z "${MQTT_PASSWORD:-}" ] || set -- "$@" -u "$user" -P "$MQTT_PASSWORD"
exec mosquitto_rr "$@" -t "orch/$node/memory/store" -e "orch/inbox/$user/remember-$$" \
    -m "{\"content\":\"$escaped\"}"
