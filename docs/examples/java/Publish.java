// Publishes one job to ffpool over AMQP, follows it over HTTP until it has ended, and exits with 0 if it completed.
//
// usage: java -cp <jars> Publish.java SCENARIO OUTPUT [INPUT]      without INPUT a test picture of two seconds is encoded
//
// The jars are com.rabbitmq:amqp-client, com.google.code.gson:gson and org.slf4j:slf4j-api (pom.xml; Debian:
// librabbitmq-client-java, libgoogle-gson-java). Java 17 or newer. Environment:
//   FFPOOL_AMQP_URL     amqp://user:password@host:5672/%2f; amqps://... with ?cacertfile=ca.pem, and where the broker asks for
//                       a certificate &certfile=me.pem&keyfile=me.pem
//   FFPOOL_API_URL      https://host:8080
//   FFPOOL_API_KEY      a key that may read
//   FFPOOL_API_CA_FILE  the authority of the API's certificate, unless Java knows it
//   TRACEPARENT         the W3C trace to which the job belongs (optional)

import com.google.gson.Gson;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.rabbitmq.client.AMQP;
import com.rabbitmq.client.AuthenticationFailureException;
import com.rabbitmq.client.BlockedListener;
import com.rabbitmq.client.Channel;
import com.rabbitmq.client.Connection;
import com.rabbitmq.client.ConnectionFactory;
import com.rabbitmq.client.ShutdownSignalException;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.net.URI;
import java.net.URISyntaxException;
import java.net.URLDecoder;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyFactory;
import java.security.KeyStore;
import java.security.PrivateKey;
import java.security.cert.Certificate;
import java.security.cert.CertificateFactory;
import java.security.spec.InvalidKeySpecException;
import java.security.spec.PKCS8EncodedKeySpec;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Base64;
import java.util.HashMap;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.Timer;
import java.util.TimerTask;
import java.util.UUID;
import java.util.concurrent.Callable;
import java.util.concurrent.TimeoutException;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicReference;
import java.util.stream.Stream;
import javax.net.ssl.KeyManager;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLException;
import javax.net.ssl.SSLParameters;
import javax.net.ssl.SSLSocket;
import javax.net.ssl.TrustManagerFactory;

public final class Publish {
    static final String QUEUE = "default"; // live, default or batch: the exchange is jobs.<queue>
    static final String PRIORITY = "low"; // high, medium or low: the routing key; high.gpu for the pool gpu
    static final int PUBLISH_MS = 30_000; // for the connection, and for the broker's confirm
    static final Duration PATIENCE = Duration.ofMinutes(1); // how long the API may be away, or may not know the job
    // The API sends a comment every 15 seconds; a stream as silent as this is dead.
    static final Duration SILENCE = Duration.ofMinutes(1);
    static final Set<String> ENDS = Set.of("completed", "failed", "cancelled", "rejected");
    static final Gson JSON = new Gson();

    /** What went wrong, as one sentence for a person. */
    static final class Trouble extends Exception {
        Trouble(String sentence) {
            super(sentence);
        }
    }

    /** A file that cannot be read, or has not what it should. */
    static final class Unreadable extends Exception {
        Unreadable(String sentence) {
            super(sentence);
        }
    }

    public static void main(String[] arguments) throws Exception {
        try {
            run(arguments);
        } catch (Trouble trouble) {
            System.err.println("Publish: " + trouble.getMessage());
            System.exit(1);
        }
        // The HTTP client's threads would keep the program for a while.
        System.exit(0);
    }

    static void run(String[] arguments) throws Exception {
        if (arguments.length != 2 && arguments.length != 3) {
            throw new Trouble("usage: Publish SCENARIO OUTPUT [INPUT]");
        }
        JsonObject job = jobOf(arguments[0], arguments[1], arguments.length == 3 ? arguments[2] : null);
        String id = job.get("id").getAsString();
        // All that can be wrong with a setting is said before anything is published.
        ConnectionFactory broker = read("FFPOOL_AMQP_URL", () -> factoryOf("FFPOOL_AMQP_URL"));
        SSLContext trust = read("FFPOOL_API_CA_FILE", () -> tls(System.getenv("FFPOOL_API_CA_FILE"), null, null));
        String key = setting("FFPOOL_API_KEY");
        URI events = URI.create(urlOf("FFPOOL_API_URL", "http", "https") + "/v1/jobs/" + id + "/events");
        HttpRequest question = HttpRequest.newBuilder(events)
                .timeout(Duration.ofSeconds(15)) // for the head of the answer
                .header("X-API-Key", key)
                .build();
        publish(broker, job);
        System.out.println(id + ": published");
        JsonObject ended = follow(trust, question, id);
        String state = ended.get("state").getAsString();
        if (!state.equals("completed")) {
            throw new Trouble("job " + id + " " + state + ": " + why(ended));
        }
        System.out.println(id + ": completed as attempt " + ended.get("attempt") + ": " + arguments[1]);
    }

    static String setting(String name) throws Trouble {
        String value = System.getenv(name);
        if (value == null || value.isEmpty()) {
            throw new Trouble(name + " is not set");
        }
        return value;
    }

    /** A setting that is a URL. What is wrong with one is not shown: there may be a password in it. */
    static URI urlOf(String name, String... schemes) throws Trouble {
        try {
            URI uri = new URI(setting(name));
            if (uri.getScheme() != null && uri.getHost() != null && List.of(schemes).contains(uri.getScheme())) {
                return uri;
            }
        } catch (URISyntaxException none) {
            // the same as any other that is none
        }
        throw new Trouble(name + " is no URL of " + String.join(" or ", schemes));
    }

    /** What a setting names, read; whatever is wrong with it is one sentence that names the setting. */
    static <T> T read(String name, Callable<T> reading) throws Trouble {
        try {
            return reading.call();
        } catch (Unreadable wrong) {
            throw new Trouble(name + ": " + wrong.getMessage());
        } catch (Trouble trouble) {
            throw trouble;
        } catch (Exception error) {
            throw new Trouble(name + ": its certificates cannot be used: " + error);
        }
    }

    /**
     * The job. Its id follows from what it says, so publishing it again, even after a crash, makes no second job. A program
     * with ids of its own (an order, a row) takes those instead: any UUID will do.
     */
    static JsonObject jobOf(String scenario, String output, String input) {
        JsonObject job = new JsonObject();
        job.addProperty("scenario", scenario);
        job.addProperty("output", output);
        job.addProperty("queue", QUEUE);
        job.addProperty("priority", PRIORITY);
        if (input != null) {
            job.addProperty("input", input);
        } else {
            JsonObject parameters = new JsonObject();
            parameters.addProperty("duration", 2);
            job.add("parameters", parameters);
        }
        byte[] said = JSON.toJson(job).getBytes(StandardCharsets.UTF_8);
        job.addProperty("id", UUID.nameUUIDFromBytes(said).toString());
        return job;
    }

    // ------------------------------------------------------------------------------------------------------- AMQP

    /** Returns when the broker has stored the job. */
    static void publish(ConnectionFactory factory, JsonObject job) throws Exception {
        String again = "; start again with the same arguments, which is safe";
        AtomicReference<String> blocked = new AtomicReference<>();
        try (Connection connection = factory.newConnection("shop")) {
            // A broker that is short of memory or disk takes nothing from publishers and answers nothing.
            connection.addBlockedListener(new BlockedListener() {
                public void handleBlocked(String reason) {
                    blocked.set(reason);
                }

                public void handleUnblocked() {
                    blocked.set(null);
                }
            });
            send(connection.createChannel(), factory.getUsername(), job);
        } catch (AuthenticationFailureException refused) {
            throw new Trouble("RabbitMQ does not accept this user and password");
        } catch (TimeoutException late) {
            String reason = blocked.get();
            throw new Trouble((reason == null
                    ? "the broker did not answer within " + PUBLISH_MS + " ms"
                    : "the broker takes no messages at present: " + reason) + again);
        } catch (SSLException distrust) {
            throw new Trouble("RabbitMQ and this program do not trust each other's certificate: " + distrust.getMessage());
        } catch (IOException | ShutdownSignalException error) {
            throw new Trouble(sentenceOf(error, again));
        }
    }

    /** Persistent, mandatory and confirmed. */
    static void send(Channel channel, String user, JsonObject job) throws Exception {
        Map<String, Object> headers = new HashMap<>();
        if (System.getenv("TRACEPARENT") != null) {
            headers.put("traceparent", System.getenv("TRACEPARENT"));
        }
        AMQP.BasicProperties properties = new AMQP.BasicProperties.Builder()
                .contentType("application/json")
                .deliveryMode(2) // persistent
                .messageId(job.get("id").getAsString())
                .userId(user) // the broker vouches for it; by it a tenant's jobs are known
                .headers(headers)
                .build();
        // A returned message is confirmed as well, and the return comes first.
        AtomicBoolean returned = new AtomicBoolean();
        channel.addReturnListener(message -> returned.set(true));
        channel.confirmSelect();
        String exchange = "jobs." + QUEUE;
        channel.basicPublish(exchange, PRIORITY, true, properties, JSON.toJson(job).getBytes(StandardCharsets.UTF_8));
        if (!channel.waitForConfirms(PUBLISH_MS)) {
            throw new Trouble("the broker could not store the job; start again, which is safe");
        }
        if (returned.get()) {
            throw new Trouble("no queue is bound to " + exchange + " under " + PRIORITY + ": is a dispatcher running?");
        }
    }

    /** What the broker said, or else what happened to the connection. */
    static String sentenceOf(Throwable error, String again) {
        for (Throwable cause = error; cause != null; cause = cause.getCause()) {
            if (cause instanceof ShutdownSignalException && !((ShutdownSignalException) cause).isHardError()
                    && ((ShutdownSignalException) cause).getReason() instanceof AMQP.Channel.Close) {
                AMQP.Channel.Close close = (AMQP.Channel.Close) ((ShutdownSignalException) cause).getReason();
                return "RabbitMQ refused the job: " + close.getReplyText();
            }
        }
        return "the job may not have been published: " + error + again;
    }

    /** Settings of a URL that names certificate files as RabbitMQ's own clients do. */
    static ConnectionFactory factoryOf(String name) throws Exception {
        URI uri = urlOf(name, "amqp", "amqps");
        Map<String, String> files = new HashMap<>();
        if (uri.getRawQuery() != null) {
            for (String pair : uri.getRawQuery().split("&")) {
                String[] sides = pair.split("=", 2);
                files.put(sides[0], URLDecoder.decode(sides[sides.length - 1], StandardCharsets.UTF_8));
            }
        }
        ConnectionFactory factory = new ConnectionFactory();
        factory.setUri(uri.toString().split("\\?")[0]);
        factory.setRequestedHeartbeat(10);
        factory.setConnectionTimeout(PUBLISH_MS);
        // A job that may not have arrived is for this program to publish again, not for a connection behind its back.
        factory.setAutomaticRecoveryEnabled(false);
        if (uri.getScheme().equals("amqps")) {
            // The library's own default trusts everybody.
            factory.useSslProtocol(tls(files.get("cacertfile"), files.get("certfile"), files.get("keyfile")));
            factory.setSocketConfigurator(socket -> {
                SSLParameters parameters = ((SSLSocket) socket).getSSLParameters();
                parameters.setEndpointIdentificationAlgorithm("HTTPS"); // the certificate must name the host
                ((SSLSocket) socket).setSSLParameters(parameters);
            });
        }
        return factory;
    }

    // -------------------------------------------------------------------------------------------------------- TLS

    /** Whom to trust and what to show; each file may be null. */
    static SSLContext tls(String authorities, String certificate, String key) throws Exception {
        TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        if (authorities == null) {
            trust.init((KeyStore) null);
        } else {
            KeyStore trusted = emptyStore();
            for (Certificate one : certificates(authorities)) {
                trusted.setCertificateEntry("authority " + trusted.size(), one);
            }
            trust.init(trusted);
        }
        KeyManager[] shown = null;
        if (certificate != null) {
            KeyStore own = emptyStore();
            Certificate[] chain = certificates(certificate).toArray(new Certificate[0]);
            own.setKeyEntry("own", privateKey(key == null ? certificate : key), new char[0], chain);
            KeyManagerFactory keys = KeyManagerFactory.getInstance(KeyManagerFactory.getDefaultAlgorithm());
            keys.init(own, new char[0]);
            shown = keys.getKeyManagers();
        }
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(shown, trust.getTrustManagers(), null);
        return context;
    }

    static KeyStore emptyStore() throws Exception {
        KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
        store.load(null, null);
        return store;
    }

    /** The first block, or all, of that kind in a PEM file. */
    static List<byte[]> blocks(String file, String kind) throws Unreadable {
        List<byte[]> found = new ArrayList<>();
        String text;
        try {
            text = Files.readString(Path.of(file));
        } catch (IOException error) {
            throw new Unreadable(file + " cannot be read: " + error);
        }
        String[] parts = text.split("-----BEGIN " + kind + "-----");
        for (int i = 1; i < parts.length; i++) {
            found.add(Base64.getMimeDecoder().decode(parts[i].substring(0, parts[i].indexOf("-----END"))));
        }
        if (found.isEmpty()) {
            throw new Unreadable("no " + kind + " in " + file);
        }
        return found;
    }

    static List<Certificate> certificates(String file) throws Exception {
        List<Certificate> found = new ArrayList<>();
        CertificateFactory reader = CertificateFactory.getInstance("X.509");
        for (byte[] block : blocks(file, "CERTIFICATE")) {
            found.add(reader.generateCertificate(new java.io.ByteArrayInputStream(block)));
        }
        return found;
    }

    /** An elliptic or an RSA key, as `ffpool certs` and `openssl genpkey` write them. */
    static PrivateKey privateKey(String file) throws Exception {
        PKCS8EncodedKeySpec key = new PKCS8EncodedKeySpec(blocks(file, "PRIVATE KEY").get(0));
        try {
            return KeyFactory.getInstance("EC").generatePrivate(key);
        } catch (InvalidKeySpecException other) {
            return KeyFactory.getInstance("RSA").generatePrivate(key);
        }
    }

    // ------------------------------------------------------------------------------------------------------- HTTP

    /** The job as it ended. Connects again when the stream breaks: it begins with the present state. */
    static JsonObject follow(SSLContext trust, HttpRequest question, String id) throws Exception {
        HttpClient client = HttpClient.newBuilder()
                .connectTimeout(Duration.ofSeconds(10))
                .sslContext(trust)
                .build();
        Instant patienceEnds = Instant.now().plus(PATIENCE);
        while (true) {
            String last = "the stream ended";
            try {
                HttpResponse<Stream<String>> answer = client.send(question, HttpResponse.BodyHandlers.ofLines());
                try (Stream<String> lines = answer.body()) {
                    int status = answer.statusCode();
                    last = "the API answered " + status;
                    if (status == 200) {
                        JsonObject ended;
                        try {
                            ended = listen(lines, id);
                        } finally {
                            // Patience begins where a stream ends, however long it was open.
                            patienceEnds = Instant.now().plus(PATIENCE);
                        }
                        if (ended != null) {
                            return ended;
                        }
                        last = "the stream ended";
                    } else if (!Set.of(404, 429, 500, 503).contains(status)) {
                        // 404: the dispatcher has not read the broker's copy of the job yet.
                        throw new Trouble(last + ": " + String.join(" ", lines.toList()));
                    }
                }
            } catch (IOException | UncheckedIOException error) {
                last = error.toString();
            }
            if (Instant.now().isAfter(patienceEnds)) {
                throw new Trouble("the job was published, but cannot be followed: " + last);
            }
            Thread.sleep(1000);
        }
    }

    /** Reads server-sent events, and closes the stream where no line comes for long, which is an end of it as well. */
    static JsonObject listen(Stream<String> stream, String id) {
        AtomicReference<Instant> heard = new AtomicReference<>(Instant.now());
        Timer watchdog = new Timer("silence", true);
        watchdog.schedule(new TimerTask() {
            public void run() {
                if (Instant.now().isAfter(heard.get().plus(SILENCE))) {
                    stream.close();
                }
            }
        }, 1000, 1000);
        try {
            return endOf(stream.iterator(), heard, id);
        } finally {
            watchdog.cancel();
        }
    }

    /** The job when it has ended, null when the stream does first. */
    static JsonObject endOf(Iterator<String> lines, AtomicReference<Instant> heard, String id) {
        String event = "";
        while (lines.hasNext()) {
            String line = lines.next();
            heard.set(Instant.now()); // comments count as well
            if (line.startsWith("event:")) {
                event = line.substring("event:".length()).strip();
            } else if (line.startsWith("data:")) { // the API writes each event's data in one line
                JsonObject data = JSON.fromJson(line.substring("data:".length()), JsonObject.class);
                if (event.equals("progress")) {
                    JsonElement percent = data.get("percent");
                    System.out.printf("%s: %s %.0f %%%n", id, data.get("phase").getAsString(),
                            percent == null || percent.isJsonNull() ? 0.0 : percent.getAsDouble());
                } else if (event.equals("job")) {
                    String state = data.get("state").getAsString();
                    if (ENDS.contains(state)) {
                        return data;
                    }
                    System.out.println(id + ": " + state);
                }
            }
        }
        return null;
    }

    /** What the ledger says about a job that did not complete. */
    static String why(JsonObject job) {
        List<String> faults = new ArrayList<>();
        for (JsonElement fault : job.getAsJsonArray("faults")) {
            faults.add(fault.getAsJsonObject().get("path").getAsString() + ": " + fault.getAsJsonObject().get("message").getAsString());
        }
        if (!faults.isEmpty()) {
            return String.join("; ", faults);
        }
        if (job.get("failure").isJsonObject()) {
            return job.getAsJsonObject("failure").get("message").getAsString();
        }
        return job.get("reason").isJsonNull() ? "no reason is on record" : job.get("reason").getAsString();
    }
}
