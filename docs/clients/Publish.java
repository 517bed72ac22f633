// Publishes each line of its input to a channel: java Publish.java news (Java 11 or later)

import java.io.*;
import java.net.URI;
import java.net.http.*;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.*;
import java.util.regex.*;

public class Publish {
    // It keeps connections open. HTTP/1.1 is what the engine speaks.
    static final HttpClient CLIENT = HttpClient.newBuilder()
            .version(HttpClient.Version.HTTP_1_1).connectTimeout(Duration.ofSeconds(5)).build();
    static final Pattern COUNTS = Pattern.compile("\"r\":\\{\"s\":(\\d+),\"f\":(\\d+)");

    /** The connections reached, and those that could not be. */
    static int[] publish(String api, String user, String channel, String data)
            throws IOException, InterruptedException {
        String basic = Base64.getEncoder().encodeToString(user.getBytes(StandardCharsets.UTF_8));
        HttpRequest request = HttpRequest.newBuilder(URI.create(api + "/v1/mesh/publish"))
                .header("Authorization", "Basic " + basic)
                .header("Content-Type", "application/json")
                .timeout(Duration.ofSeconds(5))
                .POST(HttpRequest.BodyPublishers.ofString("{\"c\":" + json(channel) + ",\"d\":" + json(data) + "}"))
                .build();
        HttpResponse<String> reply = CLIENT.send(request, HttpResponse.BodyHandlers.ofString());
        Matcher counts = COUNTS.matcher(reply.body());
        if (reply.statusCode() != 200 || !counts.find()) {
            throw new IOException("HTTP " + reply.statusCode() + ", " + reply.body());
        }
        return new int[] {Integer.parseInt(counts.group(1)), Integer.parseInt(counts.group(2))};
    }

    /** Java has no JSON of its own; for a string these few lines will do. */
    static String json(String text) {
        StringBuilder quoted = new StringBuilder("\"");
        for (char c : text.toCharArray()) {
            if (c == '"' || c == '\\') {
                quoted.append('\\').append(c);
            } else if (c < ' ') {
                quoted.append(String.format("\\u%04x", (int) c));
            } else {
                quoted.append(c);
            }
        }
        return quoted.append('"').toString();
    }

    public static void main(String[] args) throws InterruptedException, IOException {
        String api = System.getenv().getOrDefault("CONNMIX_API", "http://127.0.0.1:6789");
        String user = System.getenv().getOrDefault("CONNMIX_USER", "backend:change-me");
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line; (line = lines.readLine()) != null;) {
            try {
                int[] counts = publish(api, user, args[0], line);
                System.out.println("reached " + counts[0] + ", failed " + counts[1]);
            } catch (IOException e) {
                System.err.println("not published: " + e);
                System.exit(1);
            }
        }
    }
}
