#!/usr/bin/env python3
"""Asks whether an action is right, with MQTT 3.1.1: reply topic and correlation stand in the envelope.
evaluate.py HOST PORT NODE ACTION   (environment: MQTT_CA for TLS, MQTT_USERNAME and MQTT_PASSWORD)"""
import json, os, sys, uuid
import paho.mqtt.client as mqtt

host, port, node, action = sys.argv[1:5] if len(sys.argv) == 5 else sys.exit(__doc__)
user, question = os.environ.get("MQTT_USERNAME", "anonymous"), str(uuid.uuid4())
inbox = f"orch/inbox/{user}/{question}"

def connected(client, _, flags, code, *more):
    client.subscribe(inbox, qos=1) if code == 0 else sys.exit(f"the broker refused the connection: {code}")

def ask(client, *_):
    metadata = {"reply_to": inbox, "correlation_id": question}
    envelope = {"message_id": question, "payload": {"action": action}, "metadata": metadata}
    client.publish(f"orch/{node}/conscience/evaluate", json.dumps(envelope), qos=1)

def answer(client, _, message):
    reply = json.loads(message.payload)
    if reply.get("correlation_id") == question:
        print(json.dumps(reply["payload"] if reply["status"] == "ok" else reply["error"], indent=2))
        client.disconnect()

api = getattr(mqtt, "CallbackAPIVersion", None)  # paho 2 wants to be told, paho 1 has no such thing
client = mqtt.Client(api.VERSION2) if api else mqtt.Client()
if ca := os.environ.get("MQTT_CA"): client.tls_set(ca)
if password := os.environ.get("MQTT_PASSWORD"): client.username_pw_set(user, password)
client.on_connect, client.on_subscribe, client.on_message = connected, ask, answer
client.connect(host, int(port))
client.loop_forever()
