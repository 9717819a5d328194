#!/usr/bin/env python3
"""Sends a command signed with an API key, with MQTT 3.1.1: everything stands in the envelope. Prints the reply.

signed.py HOST PORT NODE COMMAND JSON   (environment: API_KEY_FILE; INBOX, the name of the key; MQTT_CA for TLS,
                                         MQTT_USERNAME and MQTT_PASSWORD)
"""
import datetime, hashlib, hmac, json, os, secrets, sys, uuid
import paho.mqtt.client as mqtt

if len(sys.argv) != 6:
    sys.exit(__doc__)
host, port, node, command, payload = sys.argv[1:6]
json.loads(payload)  # a broken envelope names no reply topic, so no answer would come
with open(os.environ["API_KEY_FILE"]) as file:
    key = file.read().strip()
key_id, message_id, nonce = key.split("_")[1], str(uuid.uuid4()), secrets.token_hex(16)
topic, inbox = f"orch/{node}/{command}", f"orch/inbox/{os.environ['INBOX']}/{message_id}"
signed_at = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")

digest = hashlib.sha256(payload.encode()).hexdigest()
fields = ["orchd-v1", key_id, message_id, topic, inbox, signed_at, nonce, digest]
signed = b"".join(b"%d:%s," % (len(field.encode()), field.encode()) for field in fields)
tag = hmac.new(key.encode(), signed, hashlib.sha256).hexdigest()
# The payload goes in as it was signed, byte by byte; json.dumps of the whole would write it anew.
envelope = (f'{{"message_id":"{message_id}","payload":{payload},"metadata":{{"reply_to":"{inbox}",'
            f'"signature":"v1:{key_id}:{tag}","signed_at":"{signed_at}","nonce":"{nonce}"}}}}')

def connected(client, _, flags, code, *more):
    if code != 0:
        sys.exit(f"the broker refused the connection: {code}")
    client.subscribe(inbox, qos=1)

def ask(client, *_):
    client.publish(topic, envelope, qos=1)

def answer(client, _, message):
    print(message.payload.decode())
    client.disconnect()

api = getattr(mqtt, "CallbackAPIVersion", None)  # paho 2 wants to be told, paho 1 has no such thing
client = mqtt.Client(api.VERSION2) if api else mqtt.Client()
if ca := os.environ.get("MQTT_CA"):
    client.tls_set(ca)
if password := os.environ.get("MQTT_PASSWORD"):
    client.username_pw_set(os.environ["MQTT_USERNAME"], password)
client.on_connect, client.on_subscribe, client.on_message = connected, ask, answer
client.connect(host, int(port))
client.loop_forever()
