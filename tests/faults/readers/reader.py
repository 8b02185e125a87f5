"""Reads a topic to its end with confluent-kafka and its Avro deserializer: reader.py <bootstrap> <registry> <topic>.

Prints one line of JSON: how many records were read and refused, and the sum of their timestamps.
"""

import json
import sys

from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext

bootstrap, registry, topic = sys.argv[1:4]
deserializer = AvroDeserializer(SchemaRegistryClient({"url": registry}))
consumer = Consumer(
    {"bootstrap.servers": bootstrap, "group.id": "python", "enable.auto.commit": False, "enable.partition.eof": True}
)
partitions = consumer.list_topics(topic).topics[topic].partitions
consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in partitions])
left, read, refused, timestamps = set(partitions), 0, 0, 0
while left:
    message = consumer.poll(30)
    if message is None:
        raise SystemExit("Kafka says nothing")
    if message.error():
        left.discard(message.partition())
        continue
    try:
        record = deserializer(message.value(), SerializationContext(topic, MessageField.VALUE))
        key = deserializer(message.key(), SerializationContext(topic, MessageField.KEY))
        if key["ep"] != record["ep"]:
            raise SystemExit(f"{key} is the key of {record}")
        read += 1
        timestamps += record["timestamp"]
    except Exception:  # a poisoned record: whatever the library says of it
        refused += 1
print(json.dumps({"read": read, "refused": refused, "timestamps": timestamps}))
