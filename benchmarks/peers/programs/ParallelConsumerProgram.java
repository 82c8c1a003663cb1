// Confluent's Parallel Consumer with the circuit breaker and the rate limiter of resilience4j.

import io.confluent.parallelconsumer.ParallelConsumerOptions;
import io.confluent.parallelconsumer.ParallelStreamProcessor;
import io.github.resilience4j.circuitbreaker.CallNotPermittedException;
import io.github.resilience4j.circuitbreaker.CircuitBreaker;
import io.github.resilience4j.circuitbreaker.CircuitBreakerConfig;
import io.github.resilience4j.ratelimiter.RateLimiter;
import io.github.resilience4j.ratelimiter.RateLimiterConfig;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

public class ParallelConsumerProgram {
    private static final int ATTEMPTS = 6;

    public static void main(String[] arguments) {
        Map<String, String> settings = System.getenv();
        var breaker = CircuitBreaker.of("clay", CircuitBreakerConfig.custom()
            .slidingWindowSize(20)
            .minimumNumberOfCalls(10)
            .waitDurationInOpenState(Duration.ofSeconds(5))
            .permittedNumberOfCallsInHalfOpenState(1)
            .build());
        double rate = Double.parseDouble(settings.get("RATE_PER_S"));
        var limiter = rate == 0 ? null : RateLimiter.of("clay", RateLimiterConfig.custom()
            .limitRefreshPeriod(Duration.ofNanos((long) (1e9 / rate)))
            .limitForPeriod(1)
            .timeoutDuration(Duration.ofMinutes(2))
            .build());

        var common = new Properties();
        common.put("bootstrap.servers", settings.get("BOOTSTRAP"));
        common.put("group.id", settings.get("GROUP"));
        common.put("auto.offset.reset", "earliest");
        common.put("enable.auto.commit", "false");
        common.put("session.timeout.ms", settings.get("SESSION_MS"));
        common.put("heartbeat.interval.ms", "1000");
        var consumer = new KafkaConsumer<>(common, new ByteArrayDeserializer(), new ByteArrayDeserializer());
        var producer = new KafkaProducer<>(common, new ByteArraySerializer(), new ByteArraySerializer());
        var http = HttpClient.newHttpClient();
        var url = URI.create(settings.get("URL"));

        var processor = ParallelStreamProcessor.createEosStreamProcessor(
            ParallelConsumerOptions.<byte[], byte[]>builder()
                .consumer(consumer)
                .ordering(ParallelConsumerOptions.ProcessingOrder.UNORDERED)
                .maxConcurrency(Integer.parseInt(settings.get("IN_FLIGHT")))
                .defaultMessageRetryDelay(Duration.ofSeconds(1))
                .build());
        processor.subscribe(List.of(settings.get("LEADS"), settings.get("BULK")));
        processor.poll(context -> {
            var lead = context.getSingleConsumerRecord().value();
            if (limiter != null) {
                limiter.acquirePermission();
            }
            try {
                breaker.executeCallable(() -> {
                    var request = HttpRequest.newBuilder(url)
                        .header("content-type", "application/json")
                        .timeout(Duration.ofSeconds(30))
                        .POST(HttpRequest.BodyPublishers.ofByteArray(lead))
                        .build();
                    int status = http.send(request, HttpResponse.BodyHandlers.discarding()).statusCode();
                    if (status >= 300) {
                        throw new IllegalStateException("answered with " + status);
                    }
                    return status;
                });
            } catch (CallNotPermittedException open) {
                throw open; // the consumer retries it later; it is no attempt
            } catch (Exception failed) {
                if (context.getSingleRecord().getNumberOfFailedAttempts() < ATTEMPTS * 10) {
                    throw new IllegalStateException(failed);
                }
                producer.send(new ProducerRecord<>(settings.get("DLQ"), lead));
            }
        });
        Runtime.getRuntime().addShutdownHook(new Thread(processor::close));
    }
}
