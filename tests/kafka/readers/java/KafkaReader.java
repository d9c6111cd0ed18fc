import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.*;
import java.util.stream.Collectors;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.*;
import org.apache.kafka.common.header.Header;

/** The Java client, of whatever release it is compiled with: what tests/kafka/readers/client.py does with the others. */
public class KafkaReader {
    private static final PrintStream OUT = new PrintStream(new java.io.FileOutputStream(java.io.FileDescriptor.out), false);
    private static final Map<String, String> SPEC = new HashMap<>();

    public static void main(String[] arguments) throws Exception {
        BufferedReader input = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line; (line = input.readLine()) != null; ) {
            int at = line.indexOf('=');
            SPEC.put(line.substring(0, at), line.substring(at + 1));
        }
        long began = System.nanoTime();
        try {
            if (SPEC.get("do").equals("produce")) produce(); else consume();
            say("done");
        } catch (KafkaException error) {
            Throwable cause = error.getClass() == KafkaException.class && error.getCause() != null ? error.getCause() : error;
            double took = (System.nanoTime() - began) / 1e9;
            say("error", cause.getClass().getSimpleName(), words(cause.getMessage()), String.format(Locale.ROOT, "%.3f", took));
        }
        OUT.flush();
        // Threads of a client that failed may go on.
        System.exit(0);
    }

    private static void consume() {
        Properties settings = common();
        settings.put("enable.auto.commit", "false");
        if (!SPEC.get("group").isEmpty()) settings.put("group.id", SPEC.get("group"));
        settings.put("isolation.level", SPEC.get("isolation"));
        settings.put("auto.offset.reset", SPEC.get("reset"));
        settings.put("check.crcs", "true");
        settings.put("session.timeout.ms", "6000");
        settings.put("heartbeat.interval.ms", "500");
        settings.put("fetch.max.wait.ms", "100");
        settings.put("default.api.timeout.ms", "15000");
        settings.put("max.poll.records", SPEC.get("batch"));
        for (String end : new String[] {"key", "value"})
            settings.put(end + ".deserializer", "org.apache.kafka.common.serialization.ByteArrayDeserializer");
        try (KafkaConsumer<byte[], byte[]> consumer = new KafkaConsumer<>(settings)) {
            switch (SPEC.get("do")) {
                case "read": read(consumer); break;
                case "follow": follow(consumer); break;
                default: times(consumer);
            }
        }
    }

    private static void read(KafkaConsumer<byte[], byte[]> consumer) {
        List<TopicPartition> wanted = new ArrayList<>();
        for (String topic : SPEC.get("topics").split(","))
            for (PartitionInfo info : consumer.partitionsFor(topic)) wanted.add(new TopicPartition(topic, info.partition()));
        wanted.sort(Comparator.comparing(TopicPartition::topic).thenComparing(TopicPartition::partition));
        Map<TopicPartition, Long> starts = consumer.beginningOffsets(wanted), ends = consumer.endOffsets(wanted);
        for (TopicPartition where : wanted) say("bounds", where.topic(), where.partition(), starts.get(where), ends.get(where));
        Map<TopicPartition, Long> at = places();
        start(consumer, at.isEmpty() ? wanted : at.keySet(), at);
        Set<TopicPartition> waiting = new HashSet<>(at.isEmpty() ? wanted : at.keySet());
        long deadline = System.nanoTime() + seconds();
        while (!waiting.isEmpty() && System.nanoTime() < deadline) {
            print(consumer.poll(Duration.ofMillis(200)));
            waiting.removeIf(where -> consumer.assignment().contains(where) && consumer.position(where) >= ends.get(where));
        }
        if (!waiting.isEmpty()) say("error", "TIMED_OUT", "the end of " + waiting + " was not reached", "0");
    }

    private static void follow(KafkaConsumer<byte[], byte[]> consumer) {
        start(consumer, places().keySet(), places());
        Set<TopicPartition> known = new HashSet<>();
        long deadline = System.nanoTime() + seconds();
        while (System.nanoTime() < deadline) {
            ConsumerRecords<byte[], byte[]> records = consumer.poll(Duration.ofMillis(200));
            if (!consumer.assignment().equals(known)) {
                known = new HashSet<>(consumer.assignment());
                say("assigned", known.stream().map(TopicPartition::toString).sorted().collect(Collectors.joining(" ")));
            }
            print(records);
            if (records.isEmpty()) continue;
            try {
                consumer.commitSync();
                say("committed", records.count());
            } catch (CommitFailedException error) {
                say("not-committed", error.getClass().getSimpleName());
            }
        }
    }

    private static void times(KafkaConsumer<byte[], byte[]> consumer) {
        for (String words : SPEC.get("at").split(",")) {
            String[] each = words.split(" ");
            TopicPartition where = new TopicPartition(each[0], Integer.parseInt(each[1]));
            OffsetAndTimestamp found =
                consumer.offsetsForTimes(Collections.singletonMap(where, Long.parseLong(each[2]))).get(where);
            say("time", where.topic(), where.partition(), each[2], found == null ? -1 : found.offset());
        }
    }

    private static void start(
            KafkaConsumer<byte[], byte[]> consumer, Collection<TopicPartition> wanted, Map<TopicPartition, Long> at) {
        if (SPEC.get("mode").equals("subscribe")) {
            consumer.subscribe(Arrays.asList(SPEC.get("topics").split(",")));
            return;
        }
        consumer.assign(wanted);
        for (TopicPartition where : wanted) {
            if (at.getOrDefault(where, -1L) < 0) consumer.seekToBeginning(Collections.singleton(where));
            else consumer.seek(where, at.get(where));
        }
    }

    private static void produce() throws Exception {
        Properties settings = common();
        settings.put("enable.idempotence", SPEC.get("idempotent"));
        settings.put("max.block.ms", "20000");
        settings.put("delivery.timeout.ms", "20000");
        settings.put("request.timeout.ms", "10000");
        for (String end : new String[] {"key", "value"})
            settings.put(end + ".serializer", "org.apache.kafka.common.serialization.ByteArraySerializer");
        KafkaProducer<byte[], byte[]> producer = new KafkaProducer<>(settings);
        try {
            producer.send(new ProducerRecord<>(SPEC.get("topics"), "x".getBytes(StandardCharsets.UTF_8))).get();
        } catch (java.util.concurrent.ExecutionException error) {
            throw error.getCause() instanceof KafkaException ? (KafkaException) error.getCause() : new KafkaException(error);
        }
        // It is not closed, as that has another form in each release; the process ends.
    }

    private static Properties common() {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", SPEC.get("bootstrap"));
        settings.put("security.protocol", SPEC.get("protocol"));
        if (!SPEC.get("ca").isEmpty()) {
            settings.put("ssl.truststore.location", SPEC.get("ca"));
            settings.put("ssl.truststore.type", SPEC.get("ca").endsWith(".pem") ? "PEM" : "PKCS12");
            if (!SPEC.get("ca").endsWith(".pem")) settings.put("ssl.truststore.password", "changeit");
        }
        String mechanism = SPEC.get("mechanism");
        if (!mechanism.isEmpty()) {
            String module = mechanism.equals("PLAIN") ? "plain.PlainLoginModule" : "scram.ScramLoginModule";
            settings.put("sasl.mechanism", mechanism);
            settings.put("sasl.jaas.config", String.format("org.apache.kafka.common.security.%s required username=\"%s\" password=\"%s\";",
                module, SPEC.get("user"), SPEC.get("password")));
        }
        return settings;
    }

    private static Map<TopicPartition, Long> places() {
        Map<TopicPartition, Long> found = new LinkedHashMap<>();
        for (String words : SPEC.get("at").split(",")) {
            if (words.isEmpty()) continue;
            String[] each = words.split(" ");
            found.put(new TopicPartition(each[0], Integer.parseInt(each[1])), Long.parseLong(each[2]));
        }
        return found;
    }

    private static long seconds() {
        return (long) (Double.parseDouble(SPEC.get("seconds")) * 1e9);
    }

    private static void print(ConsumerRecords<byte[], byte[]> records) {
        for (ConsumerRecord<byte[], byte[]> each : records) {
            StringJoiner headers = new StringJoiner(",");
            for (Header header : each.headers())
                headers.add(text(header.key().getBytes(StandardCharsets.UTF_8)) + ":" + text(header.value()));
            OUT.print("record\t" + each.topic() + "\t" + each.partition() + "\t" + each.offset() + "\t" + each.timestamp() + "\t"
                + text(each.key()) + "\t" + text(each.value()) + "\t" + headers + "\n");
        }
        OUT.flush();
    }

    private static String text(byte[] data) {
        return data == null ? "-" : Base64.getEncoder().encodeToString(data);
    }

    private static String words(String text) {
        return text == null ? "" : text.replaceAll("\\s+", " ");
    }

    private static void say(Object... words) {
        OUT.print(Arrays.stream(words).map(String::valueOf).collect(Collectors.joining("\t")) + "\n");
        OUT.flush();
    }
}
