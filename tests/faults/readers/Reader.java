import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.stream.Collectors;

import com.fasterxml.jackson.databind.ObjectMapper;
import org.apache.avro.Schema;
import org.apache.avro.generic.GenericDatumReader;
import org.apache.avro.generic.GenericRecord;
import org.apache.avro.io.DecoderFactory;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/** The same as reader.py with Java's Avro: {@code Reader <bootstrap> <registry> <topic>}. */
public final class Reader {
    private static final HttpClient HTTP = HttpClient.newHttpClient();
    private static final Map<Integer, Schema> SCHEMAS = new HashMap<>();

    public static void main(String[] args) throws Exception {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", args[0]);
        settings.put("isolation.level", "read_committed");
        long read = 0;
        long refused = 0;
        long timestamps = 0;
        try (KafkaConsumer<byte[], byte[]> consumer =
                new KafkaConsumer<>(settings, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            List<TopicPartition> partitions = consumer.partitionsFor(args[2]).stream()
                    .map(info -> new TopicPartition(info.topic(), info.partition())).collect(Collectors.toList());
            consumer.assign(partitions);
            consumer.seekToBeginning(partitions);
            Map<TopicPartition, Long> ends = consumer.endOffsets(partitions);
            while (partitions.stream().anyMatch(partition -> consumer.position(partition) < ends.get(partition))) {
                for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofSeconds(1))) {
                    try {
                        GenericRecord value = decode(args[1], record.value());
                        GenericRecord key = decode(args[1], record.key());
                        if (!key.get("ep").toString().equals(value.get("ep").toString())) {
                            throw new AssertionError(key + " is the key of " + value);
                        }
                        read++;
                        timestamps += (Long) value.get("timestamp");
                    } catch (Exception poisoned) {
                        refused++;
                    }
                }
            }
        }
        System.out.println("{\"read\": " + read + ", \"refused\": " + refused + ", \"timestamps\": " + timestamps + "}");
    }

    private static GenericRecord decode(String registry, byte[] framed) throws Exception {
        ByteBuffer bytes = ByteBuffer.wrap(framed);
        if (bytes.get() != 0) {
            throw new IllegalArgumentException("no magic byte");
        }
        Schema schema = schema(registry, bytes.getInt());
        GenericDatumReader<GenericRecord> reader = new GenericDatumReader<>(schema);
        return reader.read(null, DecoderFactory.get().binaryDecoder(framed, 5, framed.length - 5, null));
    }

    private static Schema schema(String registry, int id) throws Exception {
        if (!SCHEMAS.containsKey(id)) {
            HttpRequest request = HttpRequest.newBuilder(URI.create(registry + "/schemas/ids/" + id)).build();
            String body = HTTP.send(request, BodyHandlers.ofString()).body();
            String text = new ObjectMapper().readTree(body).get("schema").asText();
            SCHEMAS.put(id, new Schema.Parser().parse(text));
        }
        return SCHEMAS.get(id);
    }
}
